//! The HTML reports: one file each, that needs nothing else.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use began::StepRecord;
use began::diagnosis::Window;
use began::score::{Metric, Weights};

use super::plot::{Line, density, escaped, lines};
use super::{Read, headline, rows, word};

/// Sample pictures that a report holds.
const PICTURES: usize = 4;
/// Bytes of a picture that is taken into a report.
const LARGEST: u64 = 4 << 20;

const STYLE: &str = ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}\
    svg{width:100%;max-width:44rem}svg text{font-size:11px;fill:currentColor}.frame{fill:none;stroke:currentColor;opacity:.4}\
    .line{fill:none;stroke-width:1.5}.c0{stroke:#2f7ed8;color:#2f7ed8}.c1{stroke:#d9480f;color:#d9480f}.c2{stroke:#2b8a3e;color:#2b8a3e}\
    .c3{stroke:#9c36b5;color:#9c36b5}.c4{stroke:#a67c00;color:#a67c00}.c5{stroke:#0c8599;color:#0c8599}figure{margin:1.5rem 0}\
    figcaption,h2{font-weight:600}img{max-width:100%}td,th{padding:.2rem .8rem;text-align:left}table{border-collapse:collapse}\
    tr{border-bottom:1px solid #8884}";

fn page(title: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>{body}</main></body></html>"
    )
}

fn steps(run: &Read, name: &str, value: impl Fn(&StepRecord) -> f64) -> Line {
    let points = run.steps.iter().map(|record| (record.step.0 as f64, value(record))).collect();
    Line { name: name.into(), points }
}

fn windows(run: &Read, name: &str, value: impl Fn(&Window) -> Option<f64>) -> Line {
    let points = run.windows.iter().filter_map(|window| Some((window.to as f64, value(window)?))).collect();
    Line { name: name.into(), points }
}

pub(super) fn of_one(run: &Read) -> String {
    let gamma = run.config.objective.gamma;
    let mut body = String::from("<table><tr><th>What</th><th>How it came out</th><th>Seen</th></tr>");
    for finding in &run.diagnosis.findings {
        let advice = finding.advice.map_or(String::new(), |advice| format!("<br><em>Try: {}</em>", escaped(advice)));
        let (subject, seen) = (escaped(finding.subject), escaped(&finding.text));
        let _ = write!(body, "<tr><td>{subject}</td><td>{}</td><td>{seen}{advice}</td></tr>", word(finding.judgement));
    }
    body += "</table><h2>Course</h2>";
    let losses = [
        steps(run, "L(x)", |r| r.real),
        steps(run, "L(G(z))", |r| r.fake),
        steps(run, "gamma L(x)", |r| gamma * r.real),
    ];
    body += &lines("Losses", "step", &losses);
    body += &lines("k", "step", &[steps(run, "k", |r| r.k)]);
    body += &lines("M", "step", &[steps(run, "M", |r| r.m_global)]);
    body += &lines("Learning rate", "step", &[steps(run, "rate", |r| r.rate)]);
    body += &phase(run);
    let distances = [
        windows(run, "measured", |w| w.wasserstein),
        windows(run, "by the paper's formula", |w| w.wasserstein_gaussian),
    ];
    body += &lines("Wasserstein distance between the losses", "step", &distances);
    body += &lines("Ratio of the spreads' part to the means' part", "step", &[windows(run, "ratio", |w| w.ratio)]);
    body += &lines("Diversity against real images", "step", &[windows(run, "diversity", |w| w.diversity)]);
    body += &scores(run);
    body += "<h2>Distributions</h2>";
    let measured: Vec<&Window> = run.windows.iter().filter(|window| window.real.count > 0).collect();
    for at in spread(measured.len(), 3) {
        let window = measured[at];
        let mut both = density("real", &window.real);
        both.extend(density("generated", &window.fake));
        body += &lines(&format!("Losses of single images, steps {} to {}", window.from, window.to), "loss", &both);
    }
    body += "<h2>Samples</h2>";
    body += &pictures(run);
    page(&headline(run), &body)
}

fn score(run: &Read, name: &str, weights: Weights, metric: Metric) -> Line {
    Line { name: name.into(), points: run.scores(weights, metric).map(|(step, value)| (step as f64, value)).collect() }
}

/// What the run scored itself at, if it did.
fn scores(run: &Read) -> String {
    if run.evaluations.is_empty() {
        return String::new();
    }
    let named = [("live weights", Weights::Live), ("averaged weights", Weights::Average)];
    let both = |metric| named.map(|(name, weights)| score(run, name, weights, metric)).to_vec();
    let mut similarity = both(Metric::MsSsim);
    similarity.push(score(run, "real images", Weights::Live, Metric::MsSsimReal));
    let mut body = String::from("<h2>Scores</h2>");
    body += &lines("Sliced Wasserstein distance, times 1,000", "step", &both(Metric::SlicedWasserstein));
    body += &lines("MS-SSIM over pairs of images: above the real ones' they are less different", "step", &similarity);
    body
}

/// L(G(z)) over L(x), one line for each third of the run, and where they balance.
fn phase(run: &Read) -> String {
    let third = run.steps.len().div_ceil(3).max(1);
    let point = |r: &StepRecord| (r.real, r.fake);
    let names = ["first third", "second third", "last third"];
    let parts = run.steps.chunks(third).zip(names);
    let mut all: Vec<Line> =
        parts.map(|(part, name)| Line { name: name.into(), points: part.iter().map(point).collect() }).collect();
    let reals = || run.steps.iter().map(|record| record.real).filter(|real| real.is_finite());
    if let (Some(low), Some(high)) = (reals().reduce(f64::min), reals().reduce(f64::max)) {
        let gamma = run.config.objective.gamma;
        all.push(Line { name: "gamma L(x)".into(), points: vec![(low, gamma * low), (high, gamma * high)] });
    }
    lines("L(G(z)) over L(x)", "L(x)", &all)
}

/// `count` places from first to last.
fn spread(len: usize, count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count.min(len)).map(|n| n * (len - 1) / (count - 1).max(1)).collect();
    places.dedup();
    places
}

fn pictures(run: &Read) -> String {
    let mut files: Vec<_> = std::fs::read_dir(run.path.join("samples")).into_iter().flatten().flatten().collect();
    files.retain(|file| file.path().extension().is_some_and(|ext| ext == "png"));
    files.sort_by_key(std::fs::DirEntry::file_name);
    let mut html = String::new();
    for at in spread(files.len(), PICTURES) {
        let file = &files[at];
        if file.metadata().is_ok_and(|about| about.len() <= LARGEST)
            && let Ok(bytes) = std::fs::read(file.path())
        {
            let name = escaped(&file.file_name().to_string_lossy());
            let _ = write!(
                html,
                "<figure><figcaption>{name}</figcaption><img alt=\"Images from noise that never changes, then real images and generated \
                 ones each beside its reconstruction: {name}\" src=\"data:image/png;base64,{}\"></figure>",
                base64(&bytes)
            );
        }
    }
    if html.is_empty() { "<p>No pictures.</p>".into() } else { html }
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn of_several(runs: &[Read]) -> String {
    let mut body = String::from("<table>");
    for (name, values) in rows(runs) {
        let _ = write!(body, "<tr><th>{}</th>", escaped(&name));
        for value in values {
            let _ = write!(body, "<td>{}</td>", escaped(&value));
        }
        body += "</tr>";
    }
    body += "</table>";
    let each = |line: &dyn Fn(&Read, &str) -> Line| runs.iter().map(|run| line(run, &run.name())).collect::<Vec<_>>();
    body += &lines("L(x)", "step", &each(&|run, name| steps(run, name, |r| r.real)));
    body += &lines("L(G(z))", "step", &each(&|run, name| steps(run, name, |r| r.fake)));
    body += &lines("k", "step", &each(&|run, name| steps(run, name, |r| r.k)));
    body += &lines("M", "step", &each(&|run, name| steps(run, name, |r| r.m_global)));
    body += &lines("Diversity", "step", &each(&|run, name| windows(run, name, |w| w.diversity)));
    if runs.iter().any(|run| !run.evaluations.is_empty()) {
        for (title, metric) in [
            ("Sliced Wasserstein distance, times 1,000", Metric::SlicedWasserstein),
            ("MS-SSIM over pairs of generated images", Metric::MsSsim),
        ] {
            let of = |weights: Weights, suffix: &str| {
                each(&|run, name| score(run, &format!("{name}{suffix}"), weights, metric))
            };
            let mut all = of(Weights::Live, "");
            all.extend(of(Weights::Average, ", averaged weights"));
            body += &lines(title, "step", &all);
        }
    }
    page("Runs side by side", &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_rfc_4648_has_them() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!((spread(0, 3), spread(1, 3), spread(9, 3)), (vec![], vec![0], vec![0, 4, 8]));
    }
}
