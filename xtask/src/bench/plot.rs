//! Lines in panels side by side, as SVG. Axes begin at zero.

use std::fmt::Write;

/// A picture of its own axes.
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) lines: Vec<Line>,
}

/// Points under a name.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// Outer size of a panel, and the plotted area in it.
const SIZE: (f64, f64) = (460.0, 320.0);
const AREA: (f64, f64, f64, f64) = (54.0, 44.0, 440.0, 280.0);
/// Of the lines in their order.
const COLOURS: [&str; 2] = ["#0b6e4f", "#b0413e"];

/// The panels as an SVG document.
pub(super) fn draw(panels: &[Panel]) -> String {
    let width = SIZE.0 * panels.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        SIZE.1
    );
    for (i, panel) in panels.iter().enumerate() {
        _ = writeln!(svg, "<g transform=\"translate({} 0)\">\n{}</g>", SIZE.0 * i as f64, panel.draw());
    }
    svg + "</svg>\n"
}

impl Panel {
    fn draw(&self) -> String {
        let (left, top, right, bottom) = AREA;
        let most = |of: fn(&(f64, f64)) -> f64| self.lines.iter().flat_map(|l| &l.points).map(of).fold(0.0, f64::max);
        let (step_x, step_y) = (step(most(|p| p.0)), step(most(|p| p.1)));
        let (end_x, end_y) = ((most(|p| p.0) / step_x).ceil() * step_x, (most(|p| p.1) / step_y).ceil() * step_y);
        let x = |v: f64| left + v / end_x * (right - left);
        let y = |v: f64| bottom - v / end_y * (bottom - top);
        let mut svg = format!("<text x=\"{left}\" y=\"20\" font-weight=\"bold\">{}</text>\n", self.title);
        for tick in ticks(step_x, end_x) {
            let at = x(tick);
            _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>", bottom + 18.0);
        }
        for tick in ticks(step_y, end_y) {
            let at = y(tick);
            _ = writeln!(svg, "<path d=\"M{left} {at:.1}H{right}\" stroke=\"#ddd\"/>");
            _ = writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>", left - 6.0, at + 4.0);
        }
        for (line, colour) in self.lines.iter().zip(COLOURS) {
            let path: Vec<String> = line.points.iter().map(|p| format!("{:.1} {:.1}", x(p.0), y(p.1))).collect();
            _ = writeln!(svg, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join("L"));
            for p in &line.points {
                let title = format!("{}: {:.1} at {}", line.name, p.1, p.0);
                _ = writeln!(
                    svg,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"><title>{title}</title></circle>",
                    x(p.0),
                    y(p.1)
                );
            }
            if let Some(last) = line.points.last() {
                let (at, above) = (x(last.0), y(last.1) - 8.0);
                _ = writeln!(
                    svg,
                    "<text x=\"{at:.1}\" y=\"{above:.1}\" text-anchor=\"end\" fill=\"{colour}\">{}</text>",
                    line.name
                );
            }
        }
        svg
    }
}

/// 1, 2 or 5 times a power of ten, so that there are four to ten steps to `most`.
fn step(most: f64) -> f64 {
    let power = 10f64.powf((most / 10.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| most / step <= 10.0).unwrap_or(1.0)
}

fn ticks(step: f64, end: f64) -> impl Iterator<Item = f64> {
    (0..=(end / step).round() as usize).map(move |i| i as f64 * step)
}
