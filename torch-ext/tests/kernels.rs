//! The kernels for bias and ELU against libtorch's operations in f64: on the host everywhere, on a GPU where one is. And what the
//! compiler for GPUs makes of them, where it is. What cannot be looked at here says `skipped`, and why.

mod kernels {
    pub mod case;
    pub mod machine_code;
    pub mod rounding;
}

use std::cell::{Cell, RefCell};
use std::env;
use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::process::Command;
use std::ptr;
use std::thread;

use kernels::case::{self, Case, WIDTHS};
use kernels::machine_code::{Function, Tools};
use kernels::rounding::Worst;
use tch::{Device, Kind, Tensor};
use torch_ext::fused::{self, Order};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const KINDS: [Kind; 2] = [Kind::BFloat16, Kind::Float];

#[test]
fn bias_and_elu_in_one_are_bias_and_elu_one_after_the_other() -> Outcome {
    let leaf = |shape: &[i64]| Tensor::randn(shape, (Kind::Double, Device::Cpu)).set_requires_grad(true);
    let (x, weight, bias) = (leaf(&[2, 8, 6, 5]), leaf(&[8, 8, 3, 3]), leaf(&[8]));
    let y = torch_ext::channels_last(&x)?.f_conv2d(&weight, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1)?;
    let found = fused::bias_elu(&y, &bias)?;
    let expected = x.f_conv2d(&weight, Some(&bias), [1, 1], [1, 1], [1, 1], 1)?.f_elu()?;
    let seed = expected.f_randn_like()?;
    let mut pairs = vec![(found.detach(), expected.detach())];
    let inputs = [&x, &weight, &bias];
    pairs.extend(torch_ext::grad(&found, Some(&seed), &inputs)?.into_iter().zip(torch_ext::grad(
        &expected,
        Some(&seed),
        &inputs,
    )?));
    for (found, expected) in pairs {
        let distance = f64::try_from((&found - &expected).f_norm()? / expected.f_norm()?)?;
        assert!(distance < 1e-13, "{distance}");
    }
    Ok(())
}

#[test]
fn on_the_host_the_kernels_give_what_libtorch_gives() -> Outcome {
    tch::set_num_threads(1);
    for kind in KINDS {
        let mut worst = Worst::default();
        for channels in WIDTHS {
            for pixels in Case::pixels(kind, channels) {
                let case = Case::new(kind, channels, pixels);
                let (found, launches) = fused::on_host(Order::Ascending, || case.run(Device::Cpu));
                let found = found?;
                if case.fits() {
                    assert_eq!(launches, 2, "{case}");
                    case.check(&found, &mut worst)?;
                } else {
                    assert_eq!(launches, 0, "{case}");
                    assert_eq!(found, case.libtorchs_way()?, "{case}");
                }
            }
        }
        println!("{kind:?}: {worst}");
    }
    Ok(())
}

#[test]
fn every_order_of_threads_and_every_run_gives_the_same_bits() -> Outcome {
    tch::set_num_threads(1);
    for kind in KINDS {
        for channels in WIDTHS {
            for pixels in Case::pixels(kind, channels) {
                let case = Case::new(kind, channels, pixels);
                let run = |order| fused::on_host(order, || case.run(Device::Cpu)).0;
                let first = run(Order::Ascending)?;
                assert_eq!(first, run(Order::Descending)?, "{case}, descending");
                assert_eq!(first, run(Order::Ascending)?, "{case}, again");
            }
        }
    }
    Ok(())
}

#[test]
fn extreme_values_come_through_as_libtorchs_do() -> Outcome {
    for kind in KINDS {
        let case = Case::extreme(kind);
        let found = fused::on_host(Order::Ascending, || case.run(Device::Cpu)).0?;
        case.check(&found, &mut Worst::default())?;
        case.check_zeros(&found)?;
    }
    Ok(())
}

#[test]
fn bfloat16_is_rounded_to_nearest_and_ties_to_even() -> Outcome {
    // Each sum lies between two neighbours of bfloat16, in their middle or a little beside it.
    let neighbours: Vec<f64> = (0..128).map(|k| 1.0 + f64::from(k) / 128.0).collect();
    let x = Tensor::from_slice(&neighbours).f_view([1, 1, 128, 1])?.f_expand([1, 8, 128, 1], false)?;
    let x = torch_ext::channels_last(&x.f_to_kind(Kind::BFloat16)?)?;
    let middle = 1.0 / 256.0;
    let beside = [middle, middle * 127.0 / 128.0, middle * 129.0 / 128.0, 0.0];
    let bias =
        Tensor::from_slice(&[beside, beside.map(|bias| bias + 1.0 / 128.0)].concat()).f_to_kind(Kind::BFloat16)?;
    let float = |tensor: &Tensor| tensor.f_to_kind(Kind::Float);
    let expected = (float(&x)? + float(&bias)?.f_view([1, 8, 1, 1])?).f_to_kind(Kind::BFloat16)?;
    let found = fused::on_host(Order::Ascending, || fused::bias_elu(&x, &bias)).0?;
    assert!(found.f_equal(&expected)?);
    Ok(())
}

#[test]
fn nothing_is_touched_before_the_first_pixel_and_behind_the_last() -> Outcome {
    for kind in KINDS {
        for (channels, pixels) in [(8, 1), (8, 7), (24, 35), (128, 257), (1024, 35)] {
            let case = Case::new(kind, channels, pixels);
            let expected = fused::on_host(Order::Ascending, || case.run(Device::Cpu)).0?;
            let found = fused::on_host(Order::Ascending, || case.run_between_nans()).0?;
            assert_eq!(found, expected, "{case}");
        }
    }
    Ok(())
}

#[test]
fn on_a_gpu_the_kernels_give_what_libtorch_gives() -> Outcome {
    if torch_ext::load_cuda().is_err() || !tch::Cuda::is_available() {
        println!("skipped: no GPU here");
        return Ok(());
    }
    let device = Device::Cuda(0);
    for kind in KINDS {
        assert!(fused::has_kernels(device, kind)?, "no kernels for {kind:?}");
        let mut worst = Worst::default();
        for channels in WIDTHS {
            for pixels in Case::pixels(kind, channels) {
                let case = Case::new(kind, channels, pixels);
                let found = case.run(device)?;
                if case.fits() {
                    case.check(&found, &mut worst)?;
                    assert_eq!(found, case.run(device)?, "{case}, again");
                }
            }
        }
        let extreme = Case::extreme(kind);
        let found = extreme.run(device)?;
        extreme.check(&found, &mut worst)?;
        // A thread whose first call of CUDA is this one has no context of the driver's.
        let (y, bias) = extreme.inputs(device)?;
        let fresh = thread::spawn(move || fused::bias_elu(&y, &bias));
        let again = case::numbers(&fresh.join().map_err(|_| "the thread panicked")??)?;
        assert!(
            again.iter().map(|y| y.to_bits()).eq(found.y.iter().map(|y| y.to_bits())),
            "{kind:?}, from a fresh thread"
        );
        println!("{kind:?}: {worst}");
    }
    Ok(())
}

/// What the process under test says: whether a CPU has the kernels, and whether the operation used them.
#[test]
#[ignore = "run by the_environment_decides_where_kernels_run"]
fn says_where_kernels_run() -> Outcome {
    let case = Case::new(Kind::BFloat16, 8, 257);
    match fused::has_kernels(Device::Cpu, Kind::BFloat16) {
        Ok(has) => {
            let by_kernels = fused::on_host(Order::Ascending, || case.run(Device::Cpu)).0?;
            println!("\nhas {has}, uses {}", case.run(Device::Cpu)? == by_kernels);
        }
        Err(error) => println!("\n{error}"),
    }
    println!("\nvalues: {:?}", case.run(Device::Cpu).map(|_| ()).map_err(|error| error.to_string()));
    Ok(())
}

#[test]
fn the_environment_decides_where_kernels_run() -> Outcome {
    let says = |word: Option<&str>| -> Outcome<String> {
        let mut child = Command::new(env::current_exe()?);
        child.args(["--exact", "says_where_kernels_run", "--include-ignored", "--nocapture"]).env_remove("BEGAN_FUSED");
        if let Some(word) = word {
            child.env("BEGAN_FUSED", word);
        }
        Ok(String::from_utf8(child.output()?.stdout)?)
    };
    for (word, expected) in [
        (None, "has false, uses false"),
        (Some("on"), "has false, uses false"),
        (Some("off"), "has false, uses false"),
        (Some("host"), "has true, uses true"),
    ] {
        let found = says(word)?;
        assert!(found.contains(expected), "{word:?}: {found}");
    }
    let refusal = "BEGAN_FUSED is 'hots': it is on (as if it were not set), off or host";
    let found = says(Some("hots"))?;
    assert_eq!(found.matches(refusal).count(), 2, "{found}");
    Ok(())
}

unsafe extern "C" {
    /// The shim's own way to make a context current, over a driver that is made up here.
    fn began_make_current(
        context: extern "C" fn(*mut *mut c_void) -> c_int,
        retain: extern "C" fn(*mut *mut c_void, c_int) -> c_int,
        set_context: extern "C" fn(*mut c_void) -> c_int,
        device: c_int,
    ) -> c_int;
    fn began_last_error() -> *const c_char;
}

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
    static FAILING: Cell<&'static str> = const { Cell::new("") };
    static CALLS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Notes a call of the driver; its answer.
fn called(name: &'static str, argument: usize) -> c_int {
    CALLS.with_borrow_mut(|calls| calls.push(format!("{name} {argument}")));
    if FAILING.get() == name { 201 } else { 0 }
}

extern "C" fn get_context(context: *mut *mut c_void) -> c_int {
    // SAFETY: the shim gives a place for one pointer, here and below.
    unsafe { *context = ptr::without_provenance_mut(CURRENT.get()) };
    called("cuCtxGetCurrent", CURRENT.get())
}

extern "C" fn retain(context: *mut *mut c_void, device: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { *context = ptr::without_provenance_mut(1000) };
    called("cuDevicePrimaryCtxRetain", usize::try_from(device).unwrap_or(usize::MAX))
}

extern "C" fn set_context(context: *mut c_void) -> c_int {
    CURRENT.set(context.addr());
    called("cuCtxSetCurrent", context.addr())
}

/// What the shim calls on this thread, and how it ends.
fn make_current() -> (Result<(), String>, Vec<String>) {
    // SAFETY: the functions are as the driver's; the error is a string that lives until this thread's next one.
    let outcome = unsafe {
        match began_make_current(get_context, retain, set_context, 3) {
            0 => Ok(()),
            _ => Err(CStr::from_ptr(began_last_error()).to_string_lossy().into_owned()),
        }
    };
    (outcome, CALLS.take())
}

#[test]
fn a_thread_without_a_context_gets_the_devices_own_once() {
    for _ in 0..2 {
        thread::spawn(|| {
            let calls = ["cuCtxGetCurrent 0", "cuDevicePrimaryCtxRetain 3", "cuCtxSetCurrent 1000"];
            assert_eq!(make_current(), (Ok(()), calls.map(str::to_owned).to_vec()));
            assert_eq!(make_current(), (Ok(()), vec!["cuCtxGetCurrent 1000".to_owned()]));
        })
        .join()
        .expect("the thread's claims hold");
    }
}

#[test]
fn a_thread_that_has_a_context_keeps_it() {
    CURRENT.set(77);
    assert_eq!(make_current(), (Ok(()), vec!["cuCtxGetCurrent 77".to_owned()]));
    assert_eq!(CURRENT.get(), 77);
}

#[test]
fn an_error_of_the_driver_names_the_call_and_its_number() {
    for call in ["cuCtxGetCurrent", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"] {
        CURRENT.set(0);
        FAILING.set(call);
        let (outcome, calls) = make_current();
        assert!(outcome.is_err_and(|error| error.starts_with(&format!("{call} gives error 201"))), "{call}");
        assert!(calls.last().is_some_and(|last| last.starts_with(call)), "{calls:?}");
    }
}

/// The kernels' machine code for every generation of GPUs that has what they need, or nothing where NVRTC is not there.
fn compiled() -> Outcome<Vec<(String, Vec<u8>)>> {
    let mut out = Vec::new();
    for (major, minor) in [(8, 0), (9, 0), (10, 0)] {
        match fused::compile(major, minor) {
            Ok(code) => out.push((format!("sm_{major}{minor}"), code)),
            Err(error) if error.0.contains("none of these loads") => {
                println!("skipped: no NVRTC here: {error}");
                return Ok(Vec::new());
            }
            // An older NVRTC does not know the newest.
            Err(error) if major > 9 => println!("not for sm_{major}{minor}: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(out)
}

#[test]
fn nvrtc_compiles_the_kernels() -> Outcome {
    for (target, code) in compiled()? {
        assert!(code.starts_with(b"\x7fELF"), "{target}");
        println!("{target}: {} bytes", code.len());
    }
    Ok(())
}

#[test]
fn the_machine_code_is_as_it_is_meant() -> Outcome {
    let compiled = compiled()?;
    if compiled.is_empty() {
        return Ok(());
    }
    let tools = match Tools::find() {
        Ok(tools) => tools,
        Err(why) => {
            println!("skipped: {why}");
            return Ok(());
        }
    };
    for (target, code) in compiled {
        let functions = tools.functions(&code)?;
        assert_eq!(functions.len(), 4, "{target}");
        for Function { name, registers, stack, local, code } in &functions {
            let at = format!("{name} for {target}");
            let pixel_loop = code.pixel_loop().ok_or_else(|| format!("{at} has no loop that stores 16 bytes"))?;
            let loads = pixel_loop.loads_before_the_first_store();
            println!("{at}: {registers} registers, {} instructions a turn, {loads} loads first", pixel_loop.len());
            // Four blocks of 256 threads on a multiprocessor, nothing spilled.
            assert!(*registers <= 64, "{at}: {registers} registers");
            assert_eq!((*stack, *local), (0, 0), "{at} spills");
            assert!(!code.has("LDL") && !code.has("STL"), "{at} spills");
            // To bfloat16 with one instruction a pair, rounded to nearest, which has no name of its own.
            assert_eq!(code.has("F2FP.BF16"), name.contains("bf16"), "{at}");
            assert!(!code.has(".RZ"), "{at} rounds towards zero");
            assert!(pixel_loop.only_moves_16_bytes(), "{at}:\n{pixel_loop}");
            // Four pixels' words are asked for before the first is used; backward they are two each.
            assert_eq!(loads, if name.contains("backward") { 8 } else { 4 }, "{at}:\n{pixel_loop}");
        }
    }
    Ok(())
}
