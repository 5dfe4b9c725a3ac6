//! How a [`View`] is drawn: a line on where the run stands, its curves, its trainers, what happened. Pure: the same view on the
//! same number of characters is the same picture.

use began_proto::v1::{Phase, StatusResponse, TrainerStatus};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Gauge, Paragraph, Row, Table};

use super::series::Series;
use super::view::View;
use crate::inspect::phase_name;
use crate::show::{in_words, time_of_day};

/// Eighths of a character, from low to high.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Characters of a curve's name and of its newest value.
const NAME: u16 = 10;
const VALUE: u16 = 12;
/// A trainer that was not heard of for so long is marked.
const QUIET: f64 = 3.0;

const REAL: Color = Color::Blue;
const FAKE: Color = Color::Yellow;
const DIM: Style = Style::new().add_modifier(Modifier::DIM);

/// Draws all of it.
pub fn draw(frame: &mut Frame, view: &View) {
    let trainers = view.status.as_ref().map_or(0, |status| status.trainers.len());
    // Header, gauge, six curves, a table with its head, and the rest for events; a small terminal loses the last first.
    let table = u16::try_from(trainers).unwrap_or(u16::MAX).clamp(1, 12) + 2;
    let [head, gauge, curves, world, events, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Length(8),
        Constraint::Length(table),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    header(frame, head, view);
    progress(frame, gauge, view);
    draw_curves(frame, curves, view);
    draw_world(frame, world, view);
    draw_events(frame, events, view);
    let keys = "q end · C checkpoint · S samples · l logarithm · ↑↓ trainers";
    let text = view.answer.as_deref().unwrap_or(keys);
    frame.render_widget(Paragraph::new(text).style(DIM), foot);
}

fn header(frame: &mut Frame, area: Rect, view: &View) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut first = vec![Span::styled(view.name.clone(), bold)];
    let (word, colour, why) = standing(view);
    first.extend([Span::raw("  "), Span::styled(word, bold.fg(colour))]);
    if let Some(status) = &view.status {
        first.push(Span::raw(format!(
            "  generation {}  {} of {} trainers  {} lanes",
            status.generation,
            status.trainers.len(),
            status.expected_trainers,
            status.lanes
        )));
        if let Some(step) = status.last_checkpoint {
            first.push(Span::raw(format!("  checkpoint {step}")));
        }
    }
    frame.render_widget(Paragraph::new(vec![Line::from(first), Line::styled(why, DIM)]), area);
}

/// A word for how it is, and why.
fn standing(view: &View) -> (String, Color, String) {
    match (&view.ended, &view.silent, &view.status) {
        (Some((failed, reason)), _, _) => {
            let (word, colour) = if *failed { ("failed", Color::Red) } else { ("ended", Color::Green) };
            (word.into(), colour, reason.clone())
        }
        (None, Some(why), _) => ("not running".into(), Color::Yellow, why.clone()),
        (None, None, Some(status)) => {
            let colour = if status.phase == "running" { Color::Green } else { Color::Yellow };
            (status.phase.clone(), colour, status.reason.clone())
        }
        (None, None, None) => ("asking".into(), Color::Yellow, String::new()),
    }
}

fn progress(frame: &mut Frame, area: Rect, view: &View) {
    let share = if view.steps == 0 { 0.0 } else { view.step as f64 / view.steps as f64 };
    let mut label = format!("step {} of {}", view.step, view.steps);
    if let Some(speed) = view.speed.last() {
        label += &format!("  {speed:.1} images/s");
    }
    let gauge = Gauge::default().ratio(share.clamp(0.0, 1.0)).label(label).gauge_style(Style::new().fg(Color::Cyan));
    frame.render_widget(gauge, area);
}

fn draw_curves(frame: &mut Frame, area: Rect, view: &View) {
    let title = if view.logarithmic { " all steps, logarithm of L and M " } else { " all steps " };
    let block = Block::new().borders(Borders::TOP).title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let curves: [(&str, &Series, Color, bool); 6] = [
        ("L(x)", &view.real, REAL, true),
        ("L(G(z))", &view.fake, FAKE, true),
        ("k", &view.k, Color::Magenta, false),
        ("M", &view.m_global, Color::Green, true),
        ("rate", &view.rate, Color::Reset, false),
        ("images/s", &view.speed, Color::Cyan, false),
    ];
    let width = usize::from(inner.width.saturating_sub(NAME + VALUE));
    let lines = curves.map(|(name, series, colour, loss)| {
        let last = series.last().map_or_else(|| "-".into(), |value| number(name, value));
        let mut points = series.over(width);
        if loss && view.logarithmic {
            points.iter_mut().for_each(|value| *value = value.max(f64::MIN_POSITIVE).ln());
        }
        Line::from(vec![
            Span::raw(format!("{name:<0$}", usize::from(NAME))),
            Span::styled(format!("{last:>0$} ", usize::from(VALUE) - 1), Style::new().add_modifier(Modifier::BOLD)),
            Span::styled(sparkline(&points), Style::new().fg(colour)),
        ])
    });
    let mut lines = Vec::from(lines);
    if let (Some(gamma), Some(real), Some(fake)) = (view.gamma, view.real.last(), view.fake.last())
        && real > 0.0
    {
        lines.push(Line::styled(format!("L(G(z)) / L(x) is {:.3}, gamma is {gamma}", fake / real), DIM));
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

fn number(name: &str, value: f64) -> String {
    match name {
        "rate" => format!("{value:.1e}"),
        "images/s" => format!("{value:.1}"),
        _ => format!("{value:.4}"),
    }
}

/// Values as bars between the least and the most of them; one that never changes is a line in the middle.
fn sparkline(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let bar = |value: &f64| {
        if high > low {
            let eighth = ((value - low) / (high - low) * 7.0).round();
            BARS[(eighth as usize).min(7)]
        } else {
            BARS[3]
        }
    };
    values.iter().map(bar).collect()
}

fn draw_world(frame: &mut Frame, area: Rect, view: &View) {
    let Some(status) = &view.status else { return };
    let shown = usize::from(area.height.saturating_sub(2));
    let all = status.trainers.len();
    let first = view.first_row.min(all.saturating_sub(shown));
    let counts = phases(status);
    let title = match all > shown {
        true => format!(" trainers {} to {} of {all}: {counts} ", first + 1, (first + shown).min(all)),
        false => format!(" trainers: {counts} "),
    };
    let rows = status.trainers.iter().skip(first).take(shown).map(row);
    let widths = [
        Constraint::Length(5),
        Constraint::Length(5),
        Constraint::Min(12),
        Constraint::Length(20),
        Constraint::Length(9),
        Constraint::Length(12),
        Constraint::Length(8),
        Constraint::Length(8),
    ];
    let head = Row::new(["rank", "node", "host", "device", "lanes", "does", "for", "heard"]).style(DIM);
    let block = Block::new().borders(Borders::TOP).title(title);
    frame.render_widget(Table::new(rows, widths).header(head).block(block), area);
}

/// "3 compute, 1 reduce".
fn phases(status: &StatusResponse) -> String {
    let mut counts = std::collections::BTreeMap::new();
    for trainer in &status.trainers {
        *counts.entry(phase_name(trainer.phase)).or_insert(0_u32) += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let words: Vec<String> = counts.into_iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

fn row(trainer: &TrainerStatus) -> Row<'static> {
    let style = match Phase::try_from(trainer.phase).unwrap_or(Phase::Unspecified) {
        _ if trainer.seconds_since_heard > QUIET => Style::new().fg(Color::Red),
        Phase::Compute => Style::new(),
        Phase::Reduce | Phase::Equilibrium | Phase::Data => Style::new().fg(Color::Yellow),
        _ => DIM,
    };
    Row::new([
        trainer.rank.map_or_else(|| "-".into(), |rank| rank.to_string()),
        trainer.node.to_string(),
        trainer.host.clone(),
        trainer.device.clone(),
        format!("{}..{}", trainer.first_lane, trainer.end_lane),
        phase_name(trainer.phase).to_owned(),
        format!("{:.1} s", trainer.phase_seconds),
        format!("{:.1} s", trainer.seconds_since_heard),
    ])
    .style(style)
}

fn draw_events(frame: &mut Frame, area: Rect, view: &View) {
    if area.height < 2 {
        return;
    }
    let mut title = " events ".to_owned();
    if let Some(status) = &view.status {
        let up = std::time::Duration::try_from_secs_f64(status.uptime_seconds).unwrap_or_default();
        title = format!(" events, the coordinator is up {} ", in_words(up));
    }
    let lines = view.events.iter().take(usize::from(area.height)).map(|(time, kind, text)| {
        Line::from(vec![
            Span::styled(format!("{} ", time_of_day(*time)), DIM),
            Span::styled(format!("{kind} "), Style::new().fg(colour_of(kind))),
            Span::raw(text.clone()),
        ])
    });
    let block = Block::new().borders(Borders::TOP).title(title);
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
}

fn colour_of(kind: &str) -> Color {
    match kind {
        "lost" | "corruption" | "guard" | "back" => Color::Red,
        "warning" | "halt" => Color::Yellow,
        "generation" | "stop" => Color::Cyan,
        _ => Color::Reset,
    }
}

#[cfg(test)]
mod tests {
    use began_proto::v1::{Ended, Event, Progress};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn picture(view: &View, width: u16, height: u16) -> String {
        let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
        let Ok(_) = terminal.draw(|frame| draw(frame, view));
        let cells = terminal.backend().buffer().content();
        let rows = cells.chunks(usize::from(width).max(1));
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>() + "\n").collect()
    }

    fn running(trainers: u32) -> View {
        let mut view = View::new("runs/first");
        view.gamma = Some(0.5);
        let trainer = |rank| TrainerStatus {
            rank: Some(rank),
            host: "desk".into(),
            device: "cpu".into(),
            phase: Phase::Compute.into(),
            first_lane: rank,
            end_lane: rank + 1,
            ..Default::default()
        };
        view.status(StatusResponse {
            phase: "running".into(),
            reason: "generation 1 is complete".into(),
            steps: 500,
            lanes: trainers,
            expected_trainers: trainers,
            trainers: (0..trainers).map(trainer).collect(),
            ..Default::default()
        });
        for step in 1..=100_u32 {
            let real = 1.0 / f64::from(step);
            view.progress(Progress {
                step: step.into(),
                steps: 500,
                real,
                fake: real / 2.0,
                k: 0.001 * f64::from(step),
                m_global: real,
                rate: 1e-4,
                images_per_second: 120.0,
                world_size: trainers,
            });
        }
        view.event(Event { kind: "lost".into(), text: "rank 3 was silent".into(), time: 3600.0, ..Default::default() });
        view
    }

    #[test]
    fn a_running_run_shows_where_it_stands_its_curves_trainers_and_events() {
        let text = picture(&running(4), 100, 40);
        for words in [
            "runs/first  running",
            "generation 1 is complete",
            "step 100 of 500  120.0 images/s",
            "L(x)           0.0100 █",
            "L(G(z)) / L(x) is 0.500, gamma is 0.5",
            "trainers: 4 compute",
            "0..1",
            "lost rank 3 was silent",
        ] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
    }

    #[test]
    fn of_a_thousand_trainers_some_are_shown_and_can_be_scrolled_to() {
        let mut view = running(1000);
        assert!(picture(&view, 100, 40).contains("trainers 1 to 12 of 1000: 1000 compute"));
        view.scroll(500);
        assert!(picture(&view, 100, 40).contains("trainers 501 to 512 of 1000"));
        view.scroll(5000);
        assert!(picture(&view, 100, 40).contains("trainers 989 to 1000 of 1000"));
    }

    #[test]
    fn an_end_is_said_and_no_size_of_terminal_is_too_small() {
        let mut view = running(4);
        view.ended(&Ended { failed: true, reason: "training diverged".into(), step: 100 });
        assert!(picture(&view, 80, 24).contains("failed") && picture(&view, 80, 24).contains("training diverged"));
        for (width, height) in [(1, 1), (10, 3), (20, 10), (300, 5), (3, 200)] {
            let _ = picture(&view, width, height);
        }
        let _ = picture(&View::new("x"), 80, 24);
    }

    #[test]
    fn bars_go_from_the_least_to_the_most() {
        assert_eq!(sparkline(&[0.0, 0.5, 1.0]), "▁▅█");
        assert_eq!(sparkline(&[2.0, 2.0]), "▄▄");
        assert_eq!(sparkline(&[]), "");
    }
}
