//! Plots as SVG inside a page: lines over steps, and histograms with their fitted normals.

use std::fmt::Write as _;

/// Points that a line is drawn with at most: each is the mean of what it stands for.
const POINTS: usize = 400;
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 28.0;
const TOP: f64 = 10.0;

/// A line with its name.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// The text so that it means nothing in HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<_> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let size = finite.len().div_ceil(POINTS).max(1);
    let middle = |part: &[(f64, f64)]| {
        let n = part.len() as f64;
        (part.iter().map(|p| p.0).sum::<f64>() / n, part.iter().map(|p| p.1).sum::<f64>() / n)
    };
    finite.chunks(size).map(middle).collect()
}

/// Lines over steps, or over each other; says so in words where there is nothing to draw.
pub(super) fn lines(title: &str, across: &str, lines: &[Line]) -> String {
    let lines: Vec<(&str, Vec<(f64, f64)>)> = lines
        .iter()
        .map(|line| (&line.name[..], thinned(&line.points)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let all = || lines.iter().flat_map(|(_, points)| points);
    let title = escaped(title);
    let Some((low_x, high_x)) = range(all().map(|p| p.0)) else {
        return format!("<figure><figcaption>{title}</figcaption><p>Not measured.</p></figure>");
    };
    let (low_y, high_y) = range(all().map(|p| p.1)).unwrap_or((0.0, 1.0));
    let x = |value: f64| LEFT + (value - low_x) / (high_x - low_x) * (WIDTH - LEFT - 10.0);
    let y = |value: f64| HEIGHT - BOTTOM - (value - low_y) / (high_y - low_y) * (HEIGHT - BOTTOM - TOP);
    let mut svg = format!(
        "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}, over {}: from {low_y:.4} to {high_y:.4}\">",
        escaped(across)
    );
    let _ = write!(
        svg,
        "<rect class=\"frame\" x=\"{LEFT}\" y=\"{TOP}\" width=\"{}\" height=\"{}\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{high_y:.4}</text><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{low_y:.4}</text>\
         <text x=\"{LEFT}\" y=\"{}\">{low_x:.4}</text><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{} {high_x:.4}</text>",
        WIDTH - LEFT - 10.0,
        HEIGHT - BOTTOM - TOP,
        LEFT - 4.0,
        TOP + 10.0,
        LEFT - 4.0,
        HEIGHT - BOTTOM,
        HEIGHT - 10.0,
        WIDTH - 10.0,
        HEIGHT - 10.0,
        escaped(across)
    );
    for (n, (_, points)) in lines.iter().enumerate() {
        let places: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        let _ = write!(svg, "<polyline class=\"line c{}\" points=\"{}\"/>", n % 6, places.join(" "));
    }
    svg += "</svg><p>";
    for (n, (name, _)) in lines.iter().enumerate() {
        let _ = write!(svg, "<span class=\"key c{}\">&#9632;</span> {} ", n % 6, escaped(name));
    }
    svg + "</p></figure>"
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return None;
    }
    let pad = if high > low { 0.0 } else { 0.5 * high.abs().max(1e-9) };
    Some((low - pad, high + pad))
}

/// A histogram as a line of densities, and the normal distribution with the same mean and spread.
pub(super) fn density(name: &str, losses: &began::diagnosis::Distribution) -> Vec<Line> {
    let (Some(histogram), Some(mean), Some(std)) = (&losses.histogram, losses.mean, losses.std) else {
        return Vec::new();
    };
    let total: u64 = histogram.counts.iter().sum();
    let width = (histogram.high - histogram.low) / histogram.counts.len().max(1) as f64;
    if total == 0 || width <= 0.0 || std <= 0.0 {
        return Vec::new();
    }
    let middle = |n: usize| histogram.low + (n as f64 + 0.5) * width;
    let measured = histogram.counts.iter().enumerate();
    let measured = measured.map(|(n, &count)| (middle(n), count as f64 / total as f64 / width)).collect();
    let normal = |at: f64| (-((at - mean) / std).powi(2) / 2.0).exp() / (std * (2.0 * std::f64::consts::PI).sqrt());
    let fitted = (0..histogram.counts.len()).map(|n| (middle(n), normal(middle(n)))).collect();
    vec![
        Line { name: format!("{name}, measured"), points: measured },
        Line { name: format!("{name}, fitted normal"), points: fitted },
    ]
}
