//! A run computed again by stand-ins: what is said of the two, and the exit code.

use crate::desk::Desk;
use crate::programs::{Program, launcher};
use anyhow::Result;
use began_record::{Entry, Journal, RunDir};

#[test]
fn a_run_computed_again_is_compared_to_its_last_step() -> Result<()> {
    let desk = Desk::new()?;
    assert_eq!(Program::start(desk.train("finish:4", "with-the-run", &["--set", "run.steps=4"]))?.end()?.0, 0);
    let again = |out: &str| {
        let mut command = launcher();
        command.arg("reproduce").arg(desk.run()).arg("--out").arg(desk.run().with_file_name(out));
        command.args(["--device", "cpu", "--quiet"]);
        command.env("FAKE_COORDINATOR", "finish:4").env("FAKE_TRAINER", "with-the-run");
        Program::start(command)?.end()
    };
    let (code, out, err) = again("equal")?;
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("equal: 4 steps, digest d16e57 at step 4 in both"), "{out}");
    // The stand-ins do not say what they run on.
    assert!(out.contains("not promised to be equal to"), "{out}");
    assert_eq!(RunDir::open(&desk.run().with_file_name("equal"))?.config()?.run.steps, 4);
    let (code, _, err) = again("equal")?;
    assert!(code == 2 && err.contains("equal exists already; choose another --out"), "{err}");

    let run = RunDir::open(&desk.run())?;
    let mut rows = Journal::read(&run)?.steps()?;
    rows[2].record.real = 0.75;
    Journal::create_or_open(&run)?.write(&[Entry::Step(rows[2])])?;
    let (code, out, err) = again("different")?;
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("different: first at step 2: L(x) is 0.75 and 0.5"), "{out}");
    Ok(())
}
