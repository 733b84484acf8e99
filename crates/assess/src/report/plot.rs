//! The plot of size against divergence, as coordinates for the template.

use super::{
    format,
    labels::{self, Rect},
};
use crate::{Assessment, Verdict, assessment::Assessed};

/// One drawing; the page holds a wide one and a narrow one.
pub(super) struct Plot {
    pub(super) id: &'static str,
    pub(super) width: f64,
    pub(super) height: f64,
    /// Edges of the plotted area.
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
    /// Height of the line of zero divergence, below the logarithmic part.
    pub(super) zero: f64,
    pub(super) x_ticks: Vec<Tick>,
    pub(super) y_ticks: Vec<Tick>,
    /// Steps of the Pareto front as an SVG path.
    pub(super) front: String,
    pub(super) marks: Vec<Mark>,
    pub(super) description: String,
}

pub(super) struct Tick {
    pub(super) at: f64,
    pub(super) label: String,
}

/// A model in the plot.
pub(super) struct Mark {
    pub(super) x: f64,
    pub(super) y: f64,
    /// `reference`, `accepted`, `refused` or `unjudged`.
    pub(super) class: &'static str,
    pub(super) label: String,
    pub(super) label_x: f64,
    pub(super) label_y: f64,
    /// Figures, shown when pointed at.
    pub(super) title: String,
}

/// Outer size of a drawing.
pub(super) struct Canvas {
    pub(super) id: &'static str,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Width of a character of a label and its height, in the units of the drawing.
const LETTER: (f64, f64) = (8.0, 16.0);

struct Point<'a> {
    model: &'a Assessed,
    bytes: f64,
    kl: f64,
    class: &'static str,
}

impl Plot {
    /// `None` if no variant has both figures.
    pub(super) fn new(assessment: &Assessment, canvas: Canvas) -> Option<Self> {
        let points = points(assessment);
        if !points.iter().any(|p| p.class != "reference") {
            return None;
        }
        let (left, right, top, bottom) = (54.0, canvas.width - 24.0, 34.0, canvas.height - 48.0);
        let zero = bottom - 12.0;
        let x = Axis::linear(points.iter().map(|p| p.bytes).fold(0.0, f64::max), left, right);
        let y = Axis::log(points.iter().map(|p| p.kl), zero - 34.0, top);
        let height = |kl: f64| if kl > 0.0 { y.at(kl.log10()) } else { zero };
        let places: Vec<_> = points.iter().map(|p| (x.at(p.bytes), height(p.kl))).collect();
        let sizes: Vec<_> = points.iter().map(|p| (p.model.name.chars().count() as f64 * LETTER.0, LETTER.1)).collect();
        let corners = corners(&points, &places);
        let labels = labels::place(&places, &sizes, &corners, Rect { left, top, right, bottom });
        let mark = |((p, &(x, y)), r): ((&Point<'_>, &(f64, f64)), Rect)| Mark {
            x,
            y,
            class: p.class,
            label: p.model.name.clone(),
            label_x: (r.left + r.right) / 2.0,
            label_y: r.bottom - 4.0,
            title: format!("{}: {}, {}", p.model.name, format::bytes(p.bytes), format::with_unit(p.kl, "nats")),
        };
        Some(Self {
            id: canvas.id,
            width: canvas.width,
            height: canvas.height,
            left,
            right,
            bottom,
            zero,
            front: path(&corners),
            description: description(&points),
            marks: points.iter().zip(&places).zip(labels).map(mark).collect(),
            x_ticks: x.ticks(format::bytes),
            y_ticks: y.ticks(|v| power_of_ten(v as i32)),
        })
    }
}

fn points(assessment: &Assessment) -> Vec<Point<'_>> {
    let point = |(i, model): (usize, &'_ Assessed)| {
        let divergence = model.measured.fidelity.as_ref().and_then(|f| f.divergence.as_ref()).map(|d| d.kl_mean.value);
        let kl = if i == 0 { Some(0.0) } else { divergence.filter(|kl| kl.is_finite()) };
        Some((model.measured.size?.bytes as f64, kl?))
    };
    let class = |i: usize, model: &Assessed| match (i, &model.verdict) {
        (0, _) => "reference",
        (_, None) => "unjudged",
        (_, Some(v)) if Verdict::accepted(v) => "accepted",
        _ => "refused",
    };
    let models = assessment.models.iter().enumerate();
    models
        .filter_map(|(i, model)| point((i, model)).map(|(bytes, kl)| Point { model, bytes, kl, class: class(i, model) }))
        .collect()
}

/// Corners of the front: from the smallest model on it right and down to each larger one.
fn corners(points: &[Point<'_>], places: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut on: Vec<_> = points.iter().zip(places).filter(|(p, _)| p.model.on_front).map(|(_, &at)| at).collect();
    on.sort_by(|a, b| a.0.total_cmp(&b.0));
    let turns = on.windows(2).flat_map(|pair| [(pair[1].0, pair[0].1), pair[1]]);
    on.first().copied().into_iter().chain(turns).collect()
}

fn path(corners: &[(f64, f64)]) -> String {
    let command = |(i, (x, y)): (usize, &(f64, f64))| format!("{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
    corners.iter().enumerate().map(command).collect()
}

fn description(points: &[Point<'_>]) -> String {
    let say = |p: &Point<'_>| {
        let front = if p.model.on_front { ", on the Pareto front" } else { "" };
        format!("{}, {}: {}, {}{front}", p.model.name, p.class, format::bytes(p.bytes), format::with_unit(p.kl, "nats"))
    };
    points.iter().map(say).collect::<Vec<_>>().join("; ")
}

/// A linear axis from `low` to `high` between two coordinates, with a mark every `step`.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// From zero to the next round number above `most`.
    fn linear(most: f64, from: f64, to: f64) -> Self {
        let most = most.max(1.0);
        let decade = 10f64.powi((most / 4.0).log10().floor() as i32);
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|s| s * decade).find(|s| most / s <= 5.0).unwrap_or(most);
        Self { low: 0.0, high: (most * 1.02 / step).ceil() * step, step, from, to }
    }
    /// Whole decades around the positive values, in powers of ten.
    fn log(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let exponents: Vec<f64> = values.filter(|v| *v > 0.0).map(f64::log10).collect();
        let low = exponents.iter().copied().fold(f64::INFINITY, f64::min).floor();
        let high = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil();
        let (low, high) = if low.is_finite() { (low, high.max(low + 1.0)) } else { (-3.0, 0.0) };
        Self { low, high, step: ((high - low) / 8.0).ceil().max(1.0), from, to }
    }
    fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }
    fn ticks(&self, label: impl Fn(f64) -> String) -> Vec<Tick> {
        let n = ((self.high - self.low) / self.step + 1e-9).floor() as usize;
        let values = (0..=n).map(|i| self.low + i as f64 * self.step);
        values.map(|v| Tick { at: self.at(v), label: label(v) }).collect()
    }
}

fn power_of_ten(exponent: i32) -> String {
    match exponent {
        -4..=0 => format!("{:.*}", exponent.unsigned_abs() as usize, 10f64.powi(exponent)),
        _ => format::significant(10f64.powi(exponent)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let x = Axis::linear(16_780_000.0, 0.0, 100.0);
        let labels: Vec<_> = x.ticks(format::bytes).into_iter().map(|t| t.label).collect();
        assert_eq!(labels, ["0 B", "5 MB", "10 MB", "15 MB", "20 MB"]);
        let y = Axis::log([0.0, 0.002, 0.3].into_iter(), 100.0, 0.0);
        assert_eq!(
            y.ticks(|v| power_of_ten(v as i32)).iter().map(|t| t.label.as_str()).collect::<Vec<_>>(),
            ["0.001", "0.01", "0.1", "1"]
        );
        assert_eq!((y.at(-3.0), y.at(0.0)), (100.0, 0.0));
        assert_eq!(Axis::log([0.0].into_iter(), 1.0, 0.0).ticks(|v| v.to_string()).len(), 4);
    }
}
