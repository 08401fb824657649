//! The program that `scripts/test_package.sh` builds against the package: `kernels` pools three
//! bags on the stand-in driver and on the CPU, which must agree to the bit; `no-kernels` expects an
//! error that says that there are none.

use bagdot::ops::embedding_bag::{EmbeddingBagOps, Forward};
use bagdot::ops::{Bags, Feature, MatrixMut, Pooling, Table, TableBatch};
use bagdot::{Cpu, Cuda, Error};

fn main() {
    let emulator =
        bagdot_emulator::install().expect("the stand-in driver").expect("not a real one");
    match std::env::args().nth(1).as_deref() {
        Some("kernels") => {
            let on_device = pool(&Cuda::new(0).expect("a device with kernels"));
            assert_eq!(on_device, pool(&Cpu::on_current_thread()));
            assert_eq!(on_device, [4.0, 6.0, 8.0, 10.0, 0.0, 0.0, 0.0, 0.0, 8.0, 9.0, 10.0, 11.0]);
            let kernels: Vec<_> = emulator
                .counters()
                .into_iter()
                .map(|kernel| (kernel.name, kernel.launches))
                .collect();
            assert_eq!(kernels, [("embedding_bag_forward_f32_i64".to_owned(), 1)]);
            println!("ran {kernels:?}");
        }
        Some("no-kernels") => {
            let error = Cuda::new(0).expect_err("there are no kernels");
            assert_eq!(error, Error::KernelsNotBuilt);
            println!("was told: {error}");
        }
        other => panic!("{other:?}: kernels or no-kernels"),
    }
}

/// Returns the sums of a bag of two ids, of an empty one and of a bag of one id.
fn pool<B: EmbeddingBagOps>(device: &B) -> Vec<f32> {
    let table = Table { num_embeddings: 4, embedding_dim: 4 };
    let feature = Feature { table: 0, pooling: Pooling::Sum, padding_idx: None };
    let tables = TableBatch::new(vec![table], vec![feature]).expect("a table");
    let tables = device.tables(tables).expect("tables on the device");
    let weights: Vec<f32> = (0..16u8).map(f32::from).collect();
    let upload = |ids: &[i64]| device.to_device(ids).expect("memory");
    let (indices, offsets) = (upload(&[0, 1, 2]), upload(&[0, 2, 2, 3]));
    let weights = device.to_device(&weights).expect("memory");
    let mut output = device.alloc::<f32>(12).expect("memory");
    let bags = Bags::new(3, B::view(&indices), B::view(&offsets));
    let target = MatrixMut::contiguous(B::view_mut(&mut output), 3, 4);
    let forward = Forward::new(&tables, B::view(&weights), bags, target);
    forward.run(device).expect("a launch");
    device.synchronize().expect("no bad ids");
    device.to_vec(&output).expect("the output")
}
