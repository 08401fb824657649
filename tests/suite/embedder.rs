//! Tests of the CPU backend inside of another program: its memory and its threads.

use std::sync::Mutex;
use std::thread;

use crate::common::*;
use bagdot::backend::cpu::Buffer;
use bagdot::ops::index_sort::{Sort, SortedIndices};
use bagdot::ops::sparse_update::{PooledGrad, Reduce, Scratch, SparseGrad, Update};
use bagdot::ops::{
    Bags, Device, Matrix, MatrixMut, OptimizerState, Pooling, SeparateTables, SeparateTablesMut,
    TableBatch, TableValues, TableValuesMut, View, ViewMut, embedding_bag,
};
use bagdot::{Cpu, Error, Jagged};

/// A trainer may move to another thread whatever the ops take, and share what they only read.
#[test]
fn everything_goes_to_other_threads() {
    fn check<T: Send + Sync>() {}
    check::<Error>();
    check::<TableBatch>();
    check::<Jagged<i64>>();
    macro_rules! of_device {
        ($($D:ty),+) => {$(
            check::<$D>();
            check::<<$D as Device>::Buffer<f32>>();
            check::<<$D as Device>::Tables>();
            check::<<$D as Device>::TablePlaces>();
            check::<View<'_, $D, f32>>();
            check::<ViewMut<'_, $D, f32>>();
            check::<Matrix<'_, $D, f32>>();
            check::<MatrixMut<'_, $D, f32>>();
            check::<Bags<'_, $D, i64>>();
            check::<SeparateTables<'_, $D, f32>>();
            check::<SeparateTablesMut<'_, $D, f32>>();
            check::<TableValues<'_, $D, f32>>();
            check::<TableValuesMut<'_, $D, f32>>();
            check::<SortedIndices<$D>>();
            check::<SparseGrad<$D>>();
            check::<OptimizerState<$D>>();
            check::<Scratch<$D>>();
            check::<PooledGrad<'_, $D, i64>>();
            check::<embedding_bag::Forward<'_, $D, f32, i64>>();
            check::<Update<'_, $D, f32, i64>>();
        )+};
    }
    of_device!(Cpu);
    #[cfg(feature = "cuda")]
    of_device!(bagdot::Cuda);
}

/// Orders and gradients may lie in memory of the caller, of whatever kind.
#[test]
fn orders_and_gradients_take_foreign_memory() {
    let (cpu, case) = (Cpu::on_current_thread(), BagCase::mixed(Pooling::Sum));
    let (layout, n) = (case.layout(), case.indices.len());
    let bags = case.upload::<Cpu, i64>(&cpu);
    let num_bags = case.features.len() * case.batch_size;
    let grad_output = case.grad_output();
    let run = |mut sorted: SortedIndices<Cpu>, mut grad: SparseGrad<Cpu>| {
        let mut workspace = vec![0; Sort::<Cpu, i64>::workspace_len(&cpu, &layout, n)];
        Sort::new(&layout, bags.view(), &mut sorted, &mut workspace).run(&cpu).unwrap();
        let grad_output = Matrix::contiguous(&grad_output, case.batch_size, case.width());
        let source = PooledGrad::new(&layout, bags.view(), &sorted, grad_output);
        Reduce::new(source, &mut grad, &mut workspace).run(&cpu).unwrap();
        grad.to_host(&cpu).unwrap()
    };
    let want = run(
        SortedIndices::new(&cpu, n, num_bags).unwrap(),
        SparseGrad::new(&cpu, &layout, n).unwrap(),
    );

    let rows_of_grad = n.min(layout.num_rows());
    let (mut rows, mut values) = (vec![u64::POISON; n], vec![9.0; rows_of_grad * layout.max_dim()]);
    let words = |len: usize| Buffer::from(vec![u32::POISON; len]);
    // SAFETY: the vectors live until the end of this test, which does not use them meanwhile.
    let (rows, values) = unsafe {
        (
            Buffer::from_raw(rows.as_mut_ptr(), n),
            Buffer::from_raw(values.as_mut_ptr(), values.len()),
        )
    };
    let counted = [words(n), words(n), words(num_bags)];
    let sorted = SortedIndices::with_buffers(&cpu, rows, words(n + 1), counted, words(2)).unwrap();
    let (rows, starts) = (vec![u64::POISON; rows_of_grad], vec![u64::POISON; rows_of_grad + 1]);
    let grad =
        SparseGrad::with_buffers(&cpu, &layout, rows.into(), starts.into(), values, words(1));
    assert_eq!(run(sorted, grad.unwrap()), want);

    // A clone has memory of its own.
    let mut numbers = [1.0_f32, 2.0];
    // SAFETY: as above.
    let buffer = unsafe { Buffer::from_raw(numbers.as_mut_ptr(), 2) };
    let mut copy = buffer.clone();
    copy[0] = 7.0;
    assert_eq!((&buffer[..], &copy[..]), (&[1.0, 2.0][..], &[7.0, 2.0][..]));
    // SAFETY: there are no elements.
    let empty = unsafe { Buffer::<f32>::from_raw(std::ptr::null_mut(), 0) };
    assert!(empty.is_empty());
}

/// A small op runs where it is called: it returns even if all threads of its pool are busy.
#[test]
fn small_ops_need_no_other_thread() {
    let pool = std::sync::Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    let cpu = Cpu::with_pool(std::sync::Arc::clone(&pool));
    let gate = Mutex::new(());
    let held = gate.lock().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            pool.broadcast(|_| drop(gate.lock().unwrap()));
        });
        let case = BagCase::one_table("small", (100, 16), &[2; 32], uniform);
        let output = case.pool::<Cpu, i64>(&cpu, &case.weights::<f32>());
        assert_eq!(output.len(), 32 * 16);
        drop(held);
    });
}

/// Ops on rayon's global pool, on the pool of the calling thread and on that thread alone give the
/// same bits.
#[test]
fn pools_of_the_caller_give_the_same_bits() {
    let case = BagCase::one_table("pools", (1000, 64), &vec![4; 3000], uniform);
    let pool = |cpu: &Cpu| case.pool::<Cpu, i64>(cpu, &case.weights::<f32>());
    let want = pool(&Cpu::on_current_thread());
    let global = Cpu::on_global_pool().unwrap();
    assert_eq!(global.num_threads(), rayon::current_num_threads());
    // Another one does not start the pool again.
    for cpu in [&global, &Cpu::on_global_pool().unwrap()] {
        assert_same_bits("on the global pool", &pool(cpu), &want);
        assert_same_bits("in it", &cpu.install(|| pool(cpu)), &want);
        let is_in_pool = cpu.install(|| rayon::current_thread_index().is_some());
        assert!(is_in_pool, "install runs on a thread of the pool");
    }
    let other = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
    assert_same_bits("in another pool", &other.install(|| pool(&global)), &want);
}
