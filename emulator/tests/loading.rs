//! Loading modules: an error in the text is an error of the load, and an opcode that the emulator
//! lacks is a fault of the kernel that executes it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bagdot_emulator::{Config, Device, FaultKind};
use common::{Gpu, Plain, grid};

const HEAD: &str = ".version 9.0\n.target sm_80\n.address_size 64\n";

#[test]
fn errors_of_the_text() {
    let load = |body: &str| {
        let text = format!(
            "{HEAD}.visible .entry k(.param .u64 p)\n{{\n.reg .b32 %r<3>;\n{body}\nret;\n}}\n"
        );
        Device::new(Config::default()).load(&text).unwrap_err().to_string()
    };
    assert_eq!(
        load("add.s32 %r1, %r2, %r3;"),
        "PTX line 7: add.s32 %r1, %r2, %r3: unknown name %r3"
    );
    assert_eq!(load("bra NOWHERE;"), "PTX line 7: unknown label NOWHERE");
    assert_eq!(load("ld.param.u64 %r1, [q];"), "PTX line 7: ld.param.u64 %r1, [q]: unknown name q");
    assert_eq!(load("mov.u32 %r1;"), "PTX line 7: mov.u32 %r1: operand 2 is missing");
    let unfinished =
        Device::new(Config::default()).load(&format!("{HEAD}.visible .entry k() {{ ret;"));
    assert_eq!(unfinished.unwrap_err().message, "a function without an end");
}

const LACKING: &str = "
.func (.param .b32 out) again(.param .b32 n)
{
    .reg .b32 %r<3>;
    ld.param.b32 %r1, [n];
    {
        .param .b32 a; .param .b32 b;
        st.param.b32 [a], %r1; call.uni (b), again, (a); ld.param.b32 %r2, [b];
    }
    st.param.b32 [out], %r2;
    ret;
}
.visible .entry recursive(.param .u64 p)
{
    { .param .b32 a; .param .b32 b; st.param.b32 [a], 3; call.uni (b), again, (a); }
    ret;
}
.visible .entry pointer(.param .u64 p)
{
    .reg .b64 %d<2>;
    mov.u64 %d1, again;
    ret;
}
.extern .func (.param .b32 r) vprintf(.param .b64 format, .param .b64 values);
.visible .entry prints(.param .u64 p)
{
    {
        .param .b64 a; .param .b64 b; .param .b32 r;
        st.param.b64 [a], 0; st.param.b64 [b], 0; call.uni (r), vprintf, (a, b);
    }
    ret;
}
.visible .entry environment(.param .u64 p)
{
    .reg .b32 %r<2>;
    mov.u32 %r1, %envreg2;
    ret;
}
.visible .entry fine(.param .u64 p)
{
    .reg .b64 %d<2>;
    .reg .b32 %r<2>;
    ld.param.u64 %d1, [p];
    mov.u32 %r1, %cluster_nctarank;
    st.global.u32 [%d1], %r1;
    ret;
}
";

#[test]
fn what_is_lacking_concerns_only_its_kernel() {
    let mut gpu = Gpu::new(&format!("{HEAD}{LACKING}"), Config::default());
    let out = gpu.room::<u32>(1);
    let lacking = [
        ("recursive", "again, which calls itself"),
        ("pointer", "the address of again"),
        ("prints", "call of vprintf"),
        ("environment", "mov.u32 of %envreg2"),
    ];
    for (name, what) in lacking {
        let faults = gpu.launch(name, grid(1, 1), &[out.to_bytes()]).unwrap_err();
        assert_eq!(faults[0].kind, FaultKind::UnknownOpcode);
        assert_eq!(faults[0].detail, format!("the emulator does not know {what}"));
        assert!(gpu.device.unsupported(gpu.module).contains(&what.to_owned()));
    }
    gpu.run("fine", grid(1, 1), &[out.to_bytes()]);
    assert_eq!(gpu.download::<u32>(out, 1), [1]);
    let kernel = gpu.kernel("fine");
    assert_eq!(gpu.device.parameter_sizes(kernel), [8]);
}

#[test]
fn no_part_of_an_opcode_is_passed_over() {
    let odd = [
        "fma.rn.oob.relu.f16 %h1, %h1, %h1, %h1;",
        "mov.b128 %q, %q;",
        "st.shared::cluster.b32 [%r1], %r1;",
        "min.xorsign.abs.f32 %f1, %f1, %f1;",
    ];
    for instruction in odd {
        let registers = ".reg .b16 %h<2>; .reg .b32 %r<2>; .reg .f32 %f<2>; .reg .b64 %q;";
        let mut gpu = Gpu::new(
            &format!("{HEAD}.visible .entry k()\n{{\n{registers}\n{instruction}\nret;\n}}\n"),
            Config::default(),
        );
        let opcode = instruction.split_whitespace().next().unwrap();
        assert_eq!(gpu.device.unsupported(gpu.module), [opcode]);
        let fault = gpu.launch("k", grid(1, 32), &[]).unwrap_err().remove(0);
        assert_eq!((fault.kind, fault.ptx_line), (FaultKind::UnknownOpcode, 7));
        assert!(fault.to_string().contains(opcode), "{fault}");
    }
}
