//! What happened in a run, in sentences, each with its evidence: which of the paper's assumptions held, whether the generator
//! collapsed, and what else went wrong. Where something was not measured, or not for long enough, it says so.

use super::window::Window;
use crate::equilibrium::next_k;
use crate::{RunConfig, StepRecord};

/// Steps below which nothing is said about a course: the networks have hardly moved.
const FEWEST_STEPS: usize = 200;
/// Windows below which no trend is told.
const FEWEST_WINDOWS: usize = 6;
/// Samples of fixed noise that differ this little, against how much real images do, are a collapse, if they had the time to be
/// otherwise. A judgement: runs of more kinds of images may show that another bound tells better.
const COLLAPSED: f64 = 0.25;
/// Steps before which a generator that never spread out may still do so. A judgement as well: small trainings that ended well drew
/// recognisably different faces by then.
const SPREAD_BY: usize = 2_000;
/// Below this it is doubtful.
const NARROW: f64 = 0.5;
/// A distribution this skewed or with tails this heavy is not normal for any purpose; with thousands of images a test
/// rejects far smaller differences, which change nothing.
const SKEWED: f64 = 0.5;
/// See [`SKEWED`].
const HEAVY: f64 = 1.0;
/// Probability below which a test rejects normality.
const REJECTED: f64 = 0.01;
/// How far the paper's formula may lie from what was measured and still be close.
const CLOSE: f64 = 0.1;
/// A value that falls below this part of what it was is falling.
const FALLING: f64 = 0.8;
/// Share of the steps with k at a bound that says that k no longer steers.
const PINNED: f64 = 0.5;
/// M in the last fifth above that of its best fifth by this much is rising.
const RISING: f64 = 1.1;
/// L(x) this many times its mean over the 50 steps before is a jump.
const JUMP: f64 = 2.0;
/// See [`JUMP`].
const JUMP_WINDOW: usize = 50;
/// Share of specks above which they are seen at a glance: one in a hundred values.
const SPECKS: f64 = 0.01;
/// Share of values out of range above which clipping changes the images.
const OUT: f64 = 0.05;
/// How far k may lie from what the losses make of it: rounding.
const SAME_K: f64 = 1e-9;

/// What is known of a run.
#[derive(Clone, Debug)]
pub struct Course<'a> {
    /// Its configuration.
    pub config: &'a RunConfig,
    /// Its steps, in order.
    pub steps: &'a [StepRecord],
    /// What was measured, in order; may be empty.
    pub windows: &'a [Window],
}

/// What a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// As the paper has it, or as it should be.
    Held,
    /// An assumption of the paper did not hold; a run may do well all the same.
    Broken,
    /// Something is wrong with the run.
    Trouble,
    /// It cannot be told.
    Unknown,
}

impl Judgement {
    /// In a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Broken => "broken",
            Self::Trouble => "trouble",
            Self::Unknown => "unknown",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// How it came out.
    pub judgement: Judgement,
    /// What was looked at.
    pub subject: &'static str,
    /// What was seen, with steps and numbers.
    pub text: String,
    /// What to try, where something is wrong.
    pub advice: Option<&'static str>,
}

/// How the run stands as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Varied images, and nothing wrong.
    Healthy,
    /// The generator draws (nearly) one image for all noise.
    Collapsed,
    /// No collapse is seen, but something is wrong.
    Troubled,
    /// Too little is known.
    Unknown,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Collapsed => "collapsed",
            Self::Troubled => "troubled",
            Self::Unknown => "cannot be told",
        })
    }
}

/// The whole of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// In a word.
    pub verdict: Verdict,
    /// In sentences.
    pub findings: Vec<Finding>,
}

/// Looks at everything.
#[must_use]
pub fn diagnose(course: &Course<'_>) -> Diagnosis {
    let mut findings = vec![collapse(course)];
    findings.extend([
        bounds(course),
        rising(course),
        jumps(course),
        forgotten(course),
        floor(course),
        specks(course),
        out_of_range(course),
        early(course),
        normality(course),
        formula(course),
        ratio(course),
        mean_to_zero(course),
    ]);
    let trouble = findings.iter().any(|finding| finding.judgement == Judgement::Trouble);
    let verdict = match findings[0].judgement {
        Judgement::Trouble => Verdict::Collapsed,
        _ if trouble => Verdict::Troubled,
        Judgement::Unknown => Verdict::Unknown,
        _ => Verdict::Healthy,
    };
    Diagnosis { verdict, findings }
}

fn finding(judgement: Judgement, subject: &'static str, text: String) -> Finding {
    Finding { judgement, subject, text, advice: None }
}

fn trouble(subject: &'static str, text: String, advice: &'static str) -> Finding {
    Finding { judgement: Judgement::Trouble, subject, text, advice: Some(advice) }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

/// A value over the windows that have it, with the window's end.
fn over(course: &Course<'_>, value: impl Fn(&Window) -> Option<f64>) -> Vec<(u64, f64)> {
    course.windows.iter().filter_map(|window| Some((window.to, value(window)?))).collect()
}

/// Means over the first and the last third.
fn first_and_last(values: &[(u64, f64)]) -> Option<(f64, f64)> {
    let third = values.len() / 3;
    let first = mean(values.get(..third)?.iter().map(|(_, value)| *value))?;
    let last = mean(values.get(values.len() - third..)?.iter().map(|(_, value)| *value))?;
    Some((first, last))
}

/// Diversity alone tells a collapse: in one, L(x) and M fall all the same.
fn collapse(course: &Course<'_>) -> Finding {
    const SUBJECT: &str = "collapse";
    let seen = over(course, |window| window.diversity);
    let Some(&(step, last)) = seen.last() else {
        let text = "whether the generator collapsed cannot be told: the diversity of samples from fixed noise was not measured, \
                    and the losses alone do not tell (they fall in a collapse too)";
        return Finding {
            advice: Some("draw samples more often (run.sample_every)"),
            ..finding(Judgement::Unknown, SUBJECT, text.into())
        };
    };
    if course.steps.len() < FEWEST_STEPS {
        let text = format!(
            "after {} steps it cannot be told: all generators begin with images that are alike (diversity {last:.2})",
            course.steps.len()
        );
        return finding(Judgement::Unknown, SUBJECT, text);
    }
    if last < COLLAPSED {
        let run = seen.iter().rev().take_while(|(_, diversity)| *diversity < COLLAPSED).count();
        let since = seen[seen.len() - run].0;
        let best = seen.iter().copied().fold((0, 0.0), |best, now| if now.1 > best.1 { now } else { best });
        // One that had spread out and has not any more is a collapse however early.
        if best.1 < NARROW && course.steps.len() < SPREAD_BY {
            let text = format!(
                "after {} steps it cannot be told: samples of different noise differ {last:.2} times as much as real images do ({:.2} at \
                 best, by step {}), and before step {SPREAD_BY} a generator may not have spread out yet",
                course.steps.len(),
                best.1,
                best.0
            );
            return Finding {
                advice: Some("train on, and look at the diversity again"),
                ..finding(Judgement::Unknown, SUBJECT, text)
            };
        }
        let how = if run == seen.len() {
            "it never was above that: the generator never spread out".to_owned()
        } else {
            format!("it had been {:.2} by step {}", best.1, best.0)
        };
        let sure = if run >= 3 { "seen so every time since" } else { "seen only so often that it may be passing" };
        return trouble(
            SUBJECT,
            format!(
                "the generator has collapsed: by step {step} samples of different noise differ {last:.2} times as much as real images do \
                 (below {COLLAPSED}; by step {since} at the latest, {run} times in a row: {sure}); {how}. L(x) and M do not show it"
            ),
            "raise objective.gamma, lower optimizer.rate, or let the skip connections fade in (objective.carry_steps); go back to a \
             checkpoint from before it with guard.diversity = \"rollback\"",
        );
    }
    if last < NARROW {
        let text = format!(
            "by step {step} samples of different noise differ {last:.2} times as much as real images do: not collapsed, but less \
             varied than they should be"
        );
        let advice = Some("look at the samples; a larger objective.gamma asks for more diversity");
        return Finding { advice, ..finding(Judgement::Broken, SUBJECT, text) };
    }
    let text =
        format!("not seen: by step {step} samples of different noise differ {last:.2} times as much as real images do");
    finding(Judgement::Held, SUBJECT, text)
}

fn bounds(course: &Course<'_>) -> Finding {
    const SUBJECT: &str = "k at its bounds";
    // The first step has k = 0 by definition, and k needs a while to leave it.
    let later = course.steps.get(course.steps.len() / 4..).unwrap_or_default();
    if course.steps.len() < FEWEST_STEPS {
        return finding(Judgement::Unknown, SUBJECT, "too few steps to tell".into());
    }
    let share = |bound: f64| later.iter().filter(|record| record.k == bound).count() as f64 / later.len() as f64;
    let (low, high) = (share(0.0), share(1.0));
    if low > PINNED {
        return trouble(
            SUBJECT,
            format!(
                "k was at 0 in {:.0} % of the steps after the first quarter: L(G(z)) stays above gamma L(x), and D never learns to tell generated images",
                low * 100.0
            ),
            "raise objective.gamma, or look whether G learns at all (optimizer.rate)",
        );
    }
    if high > PINNED {
        return trouble(
            SUBJECT,
            format!(
                "k was at 1 in {:.0} % of the steps after the first quarter: L(G(z)) stays below gamma L(x) although D does all it can against it",
                high * 100.0
            ),
            "lower objective.gamma or objective.lambda_k",
        );
    }
    let last = later.last().map_or(0.0, |record| record.k);
    let text = format!(
        "k steers: at 0 in {:.0} % and at 1 in {:.0} % of the steps after the first quarter, at last {last:.4}",
        low * 100.0,
        high * 100.0
    );
    finding(Judgement::Held, SUBJECT, text)
}

fn rising(course: &Course<'_>) -> Finding {
    const SUBJECT: &str = "M";
    let fifth = course.steps.len() / 5;
    if course.steps.len() < FEWEST_STEPS {
        return finding(Judgement::Unknown, SUBJECT, "too few steps to tell".into());
    }
    let parts: Vec<f64> =
        course.steps.chunks_exact(fifth).filter_map(|part| mean(part.iter().map(|record| record.m_global))).collect();
    let (Some(&last), Some(best)) = (parts.last(), parts.iter().copied().reduce(f64::min)) else {
        return finding(Judgement::Unknown, SUBJECT, "too few steps to tell".into());
    };
    let first = parts[0];
    if last > RISING * best {
        return trouble(
            SUBJECT,
            format!(
                "M rises: {last:.4} on average over the last fifth of the steps, after {best:.4} in the best fifth"
            ),
            "lower optimizer.rate, or let it fall sooner (optimizer.stall_window)",
        );
    }
    finding(
        Judgement::Held,
        SUBJECT,
        format!("M went from {first:.4} (first fifth of the steps) to {last:.4} (last fifth)"),
    )
}

fn jumps(course: &Course<'_>) -> Finding {
    const SUBJECT: &str = "jumps";
    let bad = course.steps.iter().find(|record| !record.real.is_finite() || !record.fake.is_finite());
    if let Some(record) = bad {
        return trouble(
            SUBJECT,
            format!("a loss is not a number in step {}", record.step),
            "lower optimizer.rate; in bf16, try f32",
        );
    }
    let mut found = Vec::new();
    let mut quiet = 0;
    for (at, window) in course.steps.windows(JUMP_WINDOW + 1).enumerate() {
        let Some(before) = mean(window[..JUMP_WINDOW].iter().map(|record| record.real)) else { continue };
        let now = &window[JUMP_WINDOW];
        if at >= quiet && now.real > JUMP * before {
            found.push((now.step, now.real / before));
            quiet = at + JUMP_WINDOW;
        }
    }
    match found.first() {
        Some((step, times)) => trouble(
            SUBJECT,
            format!(
                "L(x) jumped {} times, first in step {step}, to {times:.1} times its mean over the {JUMP_WINDOW} steps before",
                found.len()
            ),
            "lower optimizer.rate, or let a guard go back (guard.jump = \"rollback\")",
        ),
        None if course.steps.len() <= JUMP_WINDOW => {
            finding(Judgement::Unknown, SUBJECT, "too few steps to tell".into())
        }
        None => finding(Judgement::Held, SUBJECT, "L(x) never jumped, and every loss is a number".into()),
    }
}

/// k is a function of the losses: where it is another, something forgot it.
fn forgotten(course: &Course<'_>) -> Finding {
    const SUBJECT: &str = "k over resumes";
    let objective = &course.config.objective;
    let parts = course.steps.windows(2).find_map(|pair| {
        let [before, after] = pair else { return None };
        let next = next_k(before.k, before.real, before.fake, objective);
        let off = (next - after.k).abs() > SAME_K;
        (off && after.step == before.step.next()).then_some((after, next))
    });
    match parts {
        Some((after, expected)) => trouble(
            SUBJECT,
            format!(
                "k is {:.6} in step {} where the losses before it give {expected:.6}: whoever went on there forgot k",
                after.k, after.step
            ),
            "go on from a whole checkpoint; a step with another k is another run",
        ),
        None if course.steps.len() < 2 => finding(Judgement::Unknown, SUBJECT, "too few steps to tell".into()),
        None => finding(Judgement::Held, SUBJECT, "k follows from the losses in every step that is recorded".into()),
    }
}

fn floor(course: &Course<'_>) -> Finding {
    const SUBJECT: &str = "learning rate";
    let optimizer = &course.config.optimizer;
    let Some(last) = course.steps.last() else {
        return finding(Judgement::Unknown, SUBJECT, "no steps".into());
    };
    let at_floor = last.rate <= optimizer.rate_floor && optimizer.rate > optimizer.rate_floor;
    let since = course.steps.iter().find(|record| record.rate <= optimizer.rate_floor);
    match since {
        Some(since) if at_floor => {
            let text = format!(
                "it reached its floor {:.1e} in step {}: from there on M has stalled and nothing lowers it further",
                last.rate, since.step
            );
            let advice = Some("the run is done, or stuck: look at the samples before training on");
            Finding { advice, ..finding(Judgement::Broken, SUBJECT, text) }
        }
        _ => finding(
            Judgement::Held,
            SUBJECT,
            format!("{:.1e} at the end, above its floor of {:.1e} or never lowered", last.rate, optimizer.rate_floor),
        ),
    }
}

fn specks(course: &Course<'_>) -> Finding {
    const SUBJECT: &str = "specks";
    match over(course, |window| window.specks).last() {
        None => finding(Judgement::Unknown, SUBJECT, "not measured".into()),
        Some((step, share)) if *share > SPECKS => trouble(
            SUBJECT,
            format!("{:.2} % of the generated values are far from their 3x3 median by step {step}", share * 100.0),
            "lower optimizer.rate; where real images have sharp points, compare with them",
        ),
        Some((step, share)) => {
            finding(Judgement::Held, SUBJECT, format!("{:.3} % of the generated values by step {step}", share * 100.0))
        }
    }
}

fn out_of_range(course: &Course<'_>) -> Finding {
    const SUBJECT: &str = "outputs out of [-1, 1]";
    match over(course, |window| window.out_of_range).last() {
        None => finding(Judgement::Unknown, SUBJECT, "not measured".into()),
        Some((step, share)) if *share > OUT => trouble(
            SUBJECT,
            format!(
                "{:.1} % of the generated values lie outside by step {step}, and are clipped in every picture",
                share * 100.0
            ),
            "lower optimizer.rate",
        ),
        Some((step, share)) => {
            finding(Judgement::Held, SUBJECT, format!("{:.2} % of the generated values by step {step}", share * 100.0))
        }
    }
}

fn early(course: &Course<'_>) -> Finding {
    const SUBJECT: &str = "the paper: L(x) > L(G(z)) early";
    let tenth = course.steps.len() / 10;
    if course.steps.len() < FEWEST_STEPS {
        return finding(Judgement::Unknown, SUBJECT, "too few steps to tell".into());
    }
    let above = course.steps[..tenth].iter().filter(|record| record.real > record.fake).count();
    let over = course.steps.iter().filter(|record| record.fake >= record.real).count();
    let text = format!(
        "L(x) was above L(G(z)) in {above} of the first {tenth} steps; in the whole run L(G(z)) was above in {over} of {}",
        course.steps.len()
    );
    let held = above * 10 >= tenth * 9;
    finding(if held { Judgement::Held } else { Judgement::Broken }, SUBJECT, text)
}

fn normality(course: &Course<'_>) -> Finding {
    const SUBJECT: &str = "the paper: normal losses";
    let tested: Vec<[f64; 6]> = course
        .windows
        .iter()
        .filter_map(|w| {
            Some([
                w.real.normality_p?,
                w.fake.normality_p?,
                w.real.skewness?,
                w.fake.skewness?,
                w.real.kurtosis?,
                w.fake.kurtosis?,
            ])
        })
        .collect();
    if tested.is_empty() {
        return finding(Judgement::Unknown, SUBJECT, "not measured".into());
    }
    let rejected = |which: usize| tested.iter().filter(|row| row[which] < REJECTED).count();
    let middle = |which: usize| mean(tested.iter().map(|row| row[which])).unwrap_or_default();
    let off = (2..4).any(|n| middle(n).abs() > SKEWED) || (4..6).any(|n| middle(n).abs() > HEAVY);
    let text = format!(
        "D'Agostino and Pearson's test rejects it (p below {REJECTED}) in {} of {} windows for real images and in {} for generated ones; on average \
         skewness {:.2} and {:.2}, excess kurtosis {:.2} and {:.2}{}",
        rejected(0),
        tested.len(),
        rejected(1),
        middle(2),
        middle(3),
        middle(4),
        middle(5),
        if off { "" } else { " (small: the rejection comes with the number of images)" }
    );
    let held = rejected(0) * 2 < tested.len() && rejected(1) * 2 < tested.len();
    finding(if held || !off { Judgement::Held } else { Judgement::Broken }, SUBJECT, text)
}

fn formula(course: &Course<'_>) -> Finding {
    const SUBJECT: &str = "the paper: the formula gives the Wasserstein distance";
    let off = over(course, |w| Some((w.wasserstein_gaussian? / w.wasserstein.filter(|&w| w > 0.0)?) - 1.0));
    let Some(middle) = mean(off.iter().map(|(_, off)| off.abs())) else {
        return finding(Judgement::Unknown, SUBJECT, "not measured".into());
    };
    let worst =
        off.iter().copied().fold((0, 0.0f64), |worst, now| if now.1.abs() > worst.1.abs() { now } else { worst });
    let text = format!(
        "it lies {:.1} % from the Wasserstein-1 distance that was measured, on average over {} windows, and at worst {:+.1} % (window up to step {})",
        middle * 100.0,
        off.len(),
        worst.1 * 100.0,
        worst.0
    );
    finding(if middle < CLOSE { Judgement::Held } else { Judgement::Broken }, SUBJECT, text)
}

fn ratio(course: &Course<'_>) -> Finding {
    const SUBJECT: &str = "the paper: the ratio is constant or increasing";
    let values = over(course, |window| window.ratio);
    let (Some((first, last)), true) = (first_and_last(&values), values.len() >= FEWEST_WINDOWS) else {
        return finding(Judgement::Unknown, SUBJECT, "measured in too few windows to tell".into());
    };
    let text = format!(
        "(c1 + c2 - 2 sqrt(c1 c2)) / |m1 - m2|^2 was {first:.4} on average over the first third of {} windows and {last:.4} over the last",
        values.len()
    );
    finding(if last >= FALLING * first { Judgement::Held } else { Judgement::Broken }, SUBJECT, text)
}

fn mean_to_zero(course: &Course<'_>) -> Finding {
    const SUBJECT: &str = "the paper: m1 -> 0";
    let values: Vec<(u64, f64)> = course.steps.iter().map(|record| (record.step.0, record.real)).collect();
    let (Some((first, last)), true) = (first_and_last(&values), values.len() >= FEWEST_STEPS) else {
        return finding(Judgement::Unknown, SUBJECT, "too few steps to tell".into());
    };
    let text = format!("L(x) was {first:.4} on average over the first third of the steps and {last:.4} over the last");
    finding(if last < first { Judgement::Held } else { Judgement::Broken }, SUBJECT, text)
}

#[cfg(test)]
mod tests;
