//! CUDA on memory and a stream of one's own: cudarc's slices, and the guards that order their use.
//!
//! `cargo run --example 04_cuda`

use std::error::Error;

use bagdot::Cuda;
use bagdot::backend::cuda::Gemm;
use bagdot::ops::embedding_bag::Forward;
use bagdot::ops::{Bags, Device, MatrixMut, Pooling, Table, TableBatch, View, ViewMut};
use cudarc::driver::{CudaContext, DevicePtr, DevicePtrMut};

fn main() -> Result<(), Box<dyn Error>> {
    // The caller's context, stream and memory.
    let stream = CudaContext::new(0)?.new_stream()?;
    let weights = stream.clone_htod(&[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])?;
    let (ids, offsets) = ([1_i32, 3, 2], [0_i32, 2, 3]);
    let (ids, offsets) = (stream.clone_htod(&ids)?, stream.clone_htod(&offsets)?);
    let mut pooled = stream.alloc_zeros::<f32>(4)?;

    // SAFETY: the stream is one of the device's primary context, and outlives the backend.
    let cuda = unsafe { Cuda::on_stream(0, stream.cu_stream().cast(), Gemm::Auto)? };
    let table = Table { num_embeddings: 4, embedding_dim: 2 };
    let tables = cuda.tables(TableBatch::one_feature_each(vec![table], Pooling::Sum)?)?;
    {
        // While the guards live, cudarc orders this use of its slices with others.
        let (weights_at, _weights) = weights.device_ptr(&stream);
        let (ids_at, _ids) = ids.device_ptr(&stream);
        let (offsets_at, _offsets) = offsets.device_ptr(&stream);
        let (pooled_at, _pooled) = pooled.device_ptr_mut(&stream);
        // SAFETY: each address is that of as many elements, alive until the stream has been waited
        // for below, and nothing else uses the output.
        let (rows, bags, output) = unsafe {
            let offsets = View::<Cuda, i32>::from_raw(offsets_at, 3);
            let bags = Bags::new(2, View::<Cuda, i32>::from_raw(ids_at, 3), offsets);
            let output = ViewMut::<Cuda, f32>::from_raw(pooled_at, 4);
            (View::<Cuda, f32>::from_raw(weights_at, 8), bags, output)
        };
        Forward::new(&tables, rows, bags, MatrixMut::contiguous(output, 2, 2)).run(&cuda)?;
        // Waits, and reports a bad id.
        cuda.synchronize()?;
    }
    let pooled = stream.clone_dtoh(&pooled)?;
    stream.synchronize()?;
    println!("{pooled:?}");
    assert_eq!(pooled, [8.0, 10.0, 4.0, 5.0]);
    Ok(())
}
