//! Draws latencies by load as SVG: the load is the horizontal axis, the latency the vertical one, on a logarithmic scale.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// Edges of the plot.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 690.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 350.0;

/// The colours keep their contrast on white and on black. The dashes tell the lines apart without colours.
const STYLE: &str = "
  text { font: 14px system-ui, sans-serif; fill: #1f2328 }
  .grid { stroke: #d1d9e0 }
  .bound { stroke: #cf222e; stroke-dasharray: 2 4; stroke-width: 2 }
  .line { fill: none; stroke-width: 2.5 }
  .line0 { stroke: #0969da } .dot0 { fill: #0969da }
  .line1 { stroke: #bc4c00; stroke-dasharray: 9 4 } .dot1 { fill: #bc4c00 }
  .line2 { stroke: #8250df; stroke-dasharray: 3 3 } .dot2 { fill: #8250df }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .grid { stroke: #3d444d }
    .bound { stroke: #ff7b72 }
    .line0 { stroke: #4493f8 } .dot0 { fill: #4493f8 }
    .line1 { stroke: #f0883e } .dot1 { fill: #f0883e }
    .line2 { stroke: #ab7df8 } .dot2 { fill: #ab7df8 }
  }
";

/// A line of the picture. There are styles for three.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    /// Per cent of the worker's most, and milliseconds.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Decades of the vertical axis, as powers of ten milliseconds: all points and the bound are between them.
#[derive(Clone, Copy)]
struct Decades {
    first: i32,
    last: i32,
}

impl Decades {
    fn around(lines: &[Line<'_>], bound: f64) -> Self {
        let all = || lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y)).chain([bound]);
        let first = all().map(|y| y.max(0.1).log10().floor() as i32).min().unwrap_or_default();
        let last = all().map(|y| y.max(0.1).log10().ceil() as i32).max().unwrap_or_default();
        Self { first, last: last.max(first + 1) }
    }

    fn y(self, milliseconds: f64) -> f64 {
        let share =
            (milliseconds.max(0.1).log10() - f64::from(self.first)) / f64::from(self.last - self.first);
        BOTTOM - share * (BOTTOM - TOP)
    }
}

fn x(per_cent: f64) -> f64 {
    LEFT + per_cent / 100.0 * (RIGHT - LEFT)
}

/// Draws the lines, and a line for the bound at `bound` milliseconds.
pub(crate) fn svg(title: &str, lines: &[Line<'_>], bound: f64) -> String {
    let decades = Decades::around(lines, bound);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n"
    );
    let mut grid = |x1: f64, y1: f64, x2: f64, y2: f64, class: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    };
    for power in decades.first..=decades.last {
        let y = decades.y(10_f64.powi(power));
        grid(LEFT, y, RIGHT, y, "grid");
    }
    for tick in 0..=5 {
        let x = x(f64::from(tick) * 20.0);
        grid(x, TOP, x, BOTTOM, "grid");
    }
    grid(LEFT, decades.y(bound), RIGHT, decades.y(bound), "bound");
    let mut text = |x: f64, y: f64, anchor: &str, more: &str, text: &str| {
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{more}>{text}</text>");
    };
    for power in decades.first..=decades.last {
        let milliseconds = 10_f64.powi(power);
        text(LEFT - 8.0, decades.y(milliseconds) + 5.0, "end", "", &format!("{milliseconds}"));
    }
    for tick in 0..=5 {
        text(x(f64::from(tick) * 20.0), BOTTOM + 20.0, "middle", "", &format!("{}", tick * 20));
    }
    text(
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 48.0,
        "middle",
        "",
        "load, % of the objects per second that the worker can deliver",
    );
    let middle = (TOP + BOTTOM) / 2.0;
    let turned = format!(" transform=\"rotate(-90 24 {middle})\"");
    text(24.0, middle, "middle", &turned, "latency, ms (logarithmic)");
    for (number, line) in lines.iter().enumerate() {
        legend(&mut svg, number, &format!("line line{number}"), line.name);
        let points: Vec<_> =
            line.points.iter().map(|(load, ms)| format!("{:.1},{:.1}", x(*load), decades.y(*ms))).collect();
        let _ = writeln!(svg, "<polyline class=\"line line{number}\" points=\"{}\"/>", points.join(" "));
        for (load, ms) in &line.points {
            let _ = writeln!(
                svg,
                "<circle class=\"dot{number}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{}: {ms:.1} ms at {load} %</title></circle>",
                x(*load),
                decades.y(*ms),
                line.name
            );
        }
    }
    legend(&mut svg, lines.len(), "bound", &format!("bound of p95 at 50 %: {bound} ms"));
    svg + "</svg>\n"
}

/// Name of a line and a piece of it, above the plot.
fn legend(svg: &mut String, number: usize, class: &str, name: &str) {
    let (left, y) = (LEFT + 90.0 * number as f64, TOP - 22.0);
    let _ = writeln!(
        svg,
        "<line class=\"{class}\" x1=\"{left}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\"/>\
         <text x=\"{}\" y=\"{}\">{name}</text>",
        left + 34.0,
        left + 42.0,
        y + 5.0
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> String {
        let line = |name, points: &[(f64, f64)]| Line { name, points: points.to_vec() };
        let lines = [
            line("p50", &[(10.0, 2.0), (50.0, 3.0), (90.0, 20.0)]),
            line("p95", &[(10.0, 4.0), (50.0, 10.0), (90.0, 2000.0)]),
        ];
        svg("Latency", &lines, 100.0)
    }

    #[test]
    fn the_axes_hold_every_point() {
        let picture = picture();
        // Four decades from 1 ms to 10 s; 10 ms is a quarter of the way up.
        assert!(picture.contains(r#"points="141.0,327.4 385.0,314.2 629.0,252.4""#), "{picture}");
        assert!(
            picture.contains(r#"cx="385.0" cy="275.0" r="4"><title>p95: 10.0 ms at 50 %</title>"#),
            "{picture}"
        );
        for text in [
            ">1<",
            ">10000<",
            ">100<",
            "load, % of",
            "latency, ms",
            "bound of p95 at 50 %: 100 ms",
            "<text x=\"212\" y=\"33\">p95<",
        ] {
            assert!(picture.contains(text), "no {text} in\n{picture}");
        }
        assert!(picture.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn every_element_is_closed() {
        let picture = picture();
        let count = |text: &str| picture.matches(text).count();
        for tag in ["svg", "text", "title", "style", "circle"] {
            let opened = count(&format!("<{tag} ")) + count(&format!("<{tag}>"));
            assert_eq!(opened, count(&format!("</{tag}>")), "{tag}");
        }
        assert_eq!(count("<line ") + count("<polyline "), count("/>"));
    }

    #[test]
    fn one_flat_line_has_a_decade() {
        let decades = Decades::around(&[Line { name: "p50", points: vec![(10.0, 100.0)] }], 100.0);
        assert_eq!((decades.first, decades.last), (2, 3));
    }
}
