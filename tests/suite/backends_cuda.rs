//! Tests that each of several backends on one device refuses memory, tables and recordings of the
//! others, since nothing orders their streams.

use crate::common::cuda::{on_every_schedule, own};
use crate::common::engine::{small_batch, small_model};
use crate::common::*;
use bagdot::backend::cuda::Buffer;
use bagdot::nn::{Optimizers, Staging};
use bagdot::ops::cast::Cast;
use bagdot::ops::index_sort::{Sort, SortedIndices};
use bagdot::ops::linear;
use bagdot::ops::moving_average::Update as Average;
use bagdot::ops::{
    Accum, Device, Loss, Matrix, MatrixMut, Optimizer, Stage, View, ViewMut, embedding_bag,
};
use bagdot::{Cuda, Error, Result};

const REFUSED: Result<()> = Err(Error::OtherBackend);

/// Uploads ten ones.
fn ones(cuda: &Cuda) -> Buffer<f32> {
    upload(cuda, &[1.0; 10])
}

#[test]
fn copies_are_refused() {
    on_every_schedule(|a| {
        let b = own();
        let (of_a, mut of_b) = (ones(a), ones(&b));
        assert_eq!(b.download(Cuda::view(&of_a), &mut [0.0; 10]), REFUSED);
        assert_eq!(b.download(Cuda::slice(&of_a, 2..3), &mut [0.0]), REFUSED);
        assert_eq!(a.upload(&[2.0; 10], Cuda::view_mut(&mut of_b)), REFUSED);
        let [mut left, _right] = Cuda::split_mut(&mut of_b, [0..3, 5..10]);
        assert_eq!(a.upload(&[2.0; 3], left.reborrow()), REFUSED);
        assert_eq!(a.download(left.as_view(), &mut [0.0; 3]), REFUSED);
        for copier in [a, &b] {
            assert_eq!(copier.copy(Cuda::view(&of_a), Cuda::view_mut(&mut of_b)), REFUSED);
        }
        assert_eq!(download(&b, &of_b), [1.0; 10], "nothing has been written");
        // A clone is the same backend.
        assert_eq!(a.clone().download(Cuda::view(&of_a), &mut [0.0; 10]), Ok(()));
    });
}

/// Checks that a view made from a pointer is accepted: its maker vouches for the order.
#[test]
fn views_of_pointers_are_taken() {
    on_every_schedule(|a| {
        let b = own();
        let (of_a, mut of_b) = (ones(a), b.alloc::<f32>(10).unwrap());
        // SAFETY: uploads and downloads wait for their backend, so no other work is in flight.
        let (from, to) = unsafe {
            let to = Cuda::view_mut(&mut of_b).pointer();
            (
                View::<Cuda, f32>::from_raw(Cuda::view(&of_a).pointer(), 10),
                ViewMut::from_raw(to, 10),
            )
        };
        b.synchronize().unwrap();
        b.copy(from, to).unwrap();
        assert_eq!(download(&b, &of_b), [1.0; 10]);
    });
}

#[test]
fn arguments_of_ops_are_refused() {
    on_every_schedule(|a| {
        let b = own();
        let (of_a, mut of_b) = (ones(a), ones(&b));
        let matrix = |buffer| Matrix::contiguous(Cuda::view(buffer), 2, 5);
        let cast = Cast {
            factor: 1.0,
            from: matrix(&of_a),
            to: MatrixMut::contiguous(Cuda::view_mut(&mut of_b), 2, 5),
        };
        assert_eq!(cast.run(&b), REFUSED);
        let average = Average::new(0.5, &of_a, &mut of_b);
        assert_eq!(average.run(a), REFUSED);
        let (weight, bias) = (ones(&b), ones(&b));
        for (backend, spoilt) in [(&b, 0), (&b, 1), (&b, 2)] {
            let pick = |argument: usize, own| if argument == spoilt { &of_a } else { own };
            let forward = linear::Forward::<Cuda, f32>::new(
                Matrix::contiguous(Cuda::view(pick(0, &weight)), 2, 5),
                Matrix::contiguous(Cuda::view(pick(1, &weight)), 2, 5),
                Cuda::slice(pick(2, &bias), 0..2),
                MatrixMut::contiguous(Cuda::slice_mut(&mut of_b, 0..4), 2, 2),
            );
            assert_eq!(forward.run(backend), REFUSED, "argument {spoilt}");
        }
        assert_eq!(download(&b, &of_b), [1.0; 10], "nothing has been written");
    });
}

/// Checks tables, sorted indices and workspaces, which are not passed as views of their own.
#[test]
fn tables_and_orders_are_refused() {
    on_every_schedule(|a| {
        let b = own();
        let case = BagCase::one_table("two", (5, 2), &[2, 1], uniform);
        let (bags, of_b) = (case.upload::<Cuda, i64>(a), b.tables(case.layout()).unwrap());
        let weights = upload(a, &case.weights::<f32>());
        let mut output = a.alloc::<f32>(4).unwrap();
        let forward = embedding_bag::Forward::new(
            &of_b,
            Cuda::view(&weights),
            bags.view(),
            MatrixMut::contiguous(Cuda::view_mut(&mut output), 2, 2),
        );
        assert_eq!(forward.run(a), REFUSED);
        let words = Sort::<Cuda, i64>::workspace_len(a, &case.layout(), 3);
        for (order, workspace) in [(&b, a), (a, &b)] {
            let mut sorted = SortedIndices::new(order, 3, 2).unwrap();
            let mut workspace = workspace.alloc(words).unwrap();
            let tables = &bags.tables;
            let sort = Sort::new(tables, bags.view(), &mut sorted, Cuda::view_mut(&mut workspace));
            assert_eq!(sort.run(a), REFUSED);
        }
    });
}

#[test]
fn recordings_are_refused() {
    on_every_schedule(|a| {
        let b = own();
        let (of_a, mut of_b, mut copy) = (ones(a), ones(&b), ones(a));
        let recorded = b.record(|| b.copy(Cuda::view(&of_a), Cuda::view_mut(&mut of_b)));
        assert_eq!(recorded.map(|_| ()), REFUSED);
        let recording =
            a.record(|| a.copy(Cuda::view(&of_a), Cuda::view_mut(&mut copy))).unwrap().unwrap();
        assert_eq!(b.replay(&recording), REFUSED);
        assert_eq!(a.replay(&recording), Ok(()));
        assert_eq!(outcome(&b, b.copy(Cuda::view(&ones(&b)), Cuda::view_mut(&mut of_b))), Ok(()));
        a.synchronize().unwrap();
    });
}

/// Checks batches, stagings, and targets of copies out of a model.
#[test]
fn the_engine_refuses_what_is_not_its_own() {
    on_every_schedule(|a| {
        let b = own();
        let sgd = Optimizers::same(Optimizer::Sgd, 0.1);
        let mut model = small_model(a, Loss::BceWithLogits, sgd);
        let batch = small_batch(vec![0.25, 0.5], &[2, 1], vec![1.0, 0.0]);
        let before = model.tensors().unwrap();
        assert_eq!(model.train_step(batch.upload(&b).view()), REFUSED);
        assert_eq!(model.loss_and_grad(batch.upload(&b).view(), Accum::Replace), REFUSED);
        assert!(model.train_staged(&mut Staging::new(&b).unwrap(), batch.view()).is_err());
        assert_eq!(model.tensors().unwrap(), before);
        model.train_step(batch.upload(a).view()).unwrap();
        assert_eq!(model.copy_last_logits(Cuda::slice_mut(&mut ones(&b), 0..2)), REFUSED);
        assert_eq!(outcome(a, model.copy_last_logits(Cuda::slice_mut(&mut ones(a), 0..2))), Ok(()));
    });
}
