//! Places labels beside points so that they cover neither each other nor the points.

/// A rectangle, y downwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Rect {
    fn overlap(&self, other: &Rect) -> f64 {
        let width = self.right.min(other.right) - self.left.max(other.left);
        let height = self.bottom.min(other.bottom) - self.top.max(other.top);
        width.max(0.0) * height.max(0.0)
    }
    fn area(&self) -> f64 {
        (self.right - self.left) * (self.bottom - self.top)
    }
    /// A level or upright line, two units wide.
    fn along((x0, y0): (f64, f64), (x1, y1): (f64, f64)) -> Self {
        Rect { left: x0.min(x1) - 1.0, top: y0.min(y1) - 1.0, right: x0.max(x1) + 1.0, bottom: y0.max(y1) + 1.0 }
    }
    fn around(x: f64, y: f64, radius: f64) -> Self {
        Rect { left: x - radius, top: y - radius, right: x + radius, bottom: y + radius }
    }
}

/// Radius kept free around a point.
const POINT: f64 = 7.0;

/// A place for a label of each of the `sizes` (width, height) beside its point, inside `area` and off the `line` of level
/// and upright pieces; in order of the points.
pub(super) fn place(points: &[(f64, f64)], sizes: &[(f64, f64)], line: &[(f64, f64)], area: Rect) -> Vec<Rect> {
    let dots = points.iter().map(|&(x, y)| Rect::around(x, y, POINT));
    let taken: Vec<Rect> = dots.chain(line.windows(2).map(|ends| Rect::along(ends[0], ends[1]))).collect();
    let mut placed: Vec<Rect> = Vec::with_capacity(points.len());
    for (&point, &size) in points.iter().zip(sizes) {
        let cost = |r: &Rect| -> f64 {
            let outside = r.area() - r.overlap(&area);
            let covered: f64 = taken.iter().chain(&placed).map(|other| r.overlap(other)).sum();
            outside * 4.0 + covered
        };
        let nearest =
            candidates(point, size).map(|r| (cost(&r), r)).reduce(|best, next| if next.0 < best.0 { next } else { best });
        placed.extend(nearest.map(|(_, r)| r));
    }
    placed
}

/// Right, left, above, below, and the corners, at growing distance: the first of equal cost is taken.
fn candidates((x, y): (f64, f64), (width, height): (f64, f64)) -> impl Iterator<Item = Rect> {
    const DIRECTIONS: [(f64, f64); 8] =
        [(1.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (0.0, 1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, -1.0), (-1.0, 1.0)];
    [10.0, 20.0, 34.0, 50.0].into_iter().flat_map(move |gap| {
        DIRECTIONS.into_iter().map(move |(dx, dy)| {
            let (centre_x, centre_y) = (x + dx * (gap + width / 2.0), y + dy * (gap + height / 2.0));
            let (left, top) = (centre_x - width / 2.0, centre_y - height / 2.0);
            Rect { left, top, right: left + width, bottom: top + height }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crowded_labels_do_not_overlap() {
        let points = [(50.0, 100.0), (55.0, 103.0), (52.0, 96.0), (300.0, 40.0), (390.0, 100.0), (390.0, 104.0)];
        let sizes = [(60.0, 16.0); 6];
        let line = [(50.0, 100.0), (300.0, 100.0), (300.0, 40.0)];
        let area = Rect { left: 0.0, top: 0.0, right: 400.0, bottom: 200.0 };
        let labels = place(&points, &sizes, &line, area);
        for (i, a) in labels.iter().enumerate() {
            assert_eq!(a.overlap(&area), a.area(), "label {i} leaves the area");
            assert!(labels[..i].iter().all(|b| a.overlap(b) == 0.0), "label {i}");
            assert!(line.windows(2).all(|l| a.overlap(&Rect::along(l[0], l[1])) == 0.0), "label {i} on the line");
            assert!(points.iter().all(|&(x, y)| a.overlap(&Rect::around(x, y, POINT)) == 0.0), "label {i}");
        }
    }

    #[test]
    fn more_labels_than_fit_still_get_a_place() {
        let points = [(5.0, 5.0); 40];
        assert_eq!(place(&points, &[(60.0, 16.0); 40], &[], Rect { left: 0.0, top: 0.0, right: 10.0, bottom: 10.0 }).len(), 40);
    }
}
