//! Alert rules and dashboard, as the tools that read them do. Skipped where Prometheus' own checker is not there.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

#[test]
fn each_alert_fires_when_it_should_and_a_healthy_run_is_quiet() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring");
    for arguments in [
        vec!["check", "rules", "alerts.yaml"],
        vec!["check", "config", "--syntax-only", "prometheus.yaml"],
        vec!["test", "rules", "alerts_test.yaml"],
    ] {
        let Ok(output) = Command::new("promtool").args(&arguments).current_dir(&folder).output() else {
            eprintln!("skipped: promtool is not here (Debian: prometheus)");
            return Ok(());
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "promtool {arguments:?}: {said}");
    }
    Ok(())
}

#[test]
fn the_dashboard_is_whole_and_no_two_panels_overlap() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let mut taken = std::collections::BTreeSet::new();
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap_or(u64::MAX);
        ensure!(place("x") + place("w") <= 24, "{} sticks out", panel["title"]);
        for cell in (place("x")..place("x") + place("w"))
            .flat_map(|x| (place("y")..place("y") + place("h")).map(move |y| (x, y)))
        {
            ensure!(taken.insert(cell), "{} lies on another", panel["title"]);
        }
    }
    ensure!(taken.len() > 500, "{} cells", taken.len());
    Ok(())
}
