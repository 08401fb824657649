//! The program that `scripts/test_package.sh` builds against the package: `kernels` pools three
//! bags on the stand-in driver and on the CPU, which must agree to the bit; `no-kernels` expects an
//! error that says that there are none.

use bagdot::ops::embedding_bag::{EmbeddingBagOps, Forward};
use bagdot::ops::{Bags, Device, Feature, MatrixMut, Pooling, Table, TableBatch};
use bagdot::{Cpu, Cuda, Error, Scalar};

fn main() {
    let emulator =
        bagdot_emulator::install().expect("the stand-in driver").expect("not a real one");
    match std::env::args().nth(1).as_deref() {
        Some("kernels") => {
            let on_device = pool(&Cuda::new(0).expect("a device with kernels"));
            assert_eq!(on_device, pool(&Cpu::single_threaded()));
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
    let (weights, indices) = (upload(device, &weights), upload(device, &[0i64, 1, 2]));
    let offsets = upload(device, &[0i64, 2, 2, 3]);
    let mut output = device.alloc::<f32>(12).expect("memory");
    let bags = Bags {
        batch_size: 3,
        indices: B::view(&indices),
        has_slack: false,
        offsets: B::view(&offsets),
        per_sample_weights: None,
    };
    let forward = Forward {
        tables: &tables,
        weights: B::view(&weights),
        bags,
        output: MatrixMut::contiguous(B::view_mut(&mut output), 3, 4),
        argmax: None,
    };
    forward.run(device).expect("a launch");
    device.synchronize().expect("no bad ids");
    device.to_vec(&output).expect("the output")
}

fn upload<B: Device, T: Scalar>(device: &B, values: &[T]) -> B::Buffer<T> {
    let mut buffer = device.alloc(values.len()).expect("memory");
    device.upload(values, B::view_mut(&mut buffer)).expect("a copy");
    buffer
}
