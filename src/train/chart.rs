//! Draws charts as SVG. Attributes hold the colours of a light page, so that a picture can stand
//! alone; the classes let a page give it others.

use std::fmt::Write;

/// The size of a chart, in units of its own coordinates, and the margins of the plot in it.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 42.0;
/// The largest number of points that are drawn as dots.
const MAX_DOTS: usize = 40;

/// The colour of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    First,
    Second,
    /// A dashed line to compare with.
    Guide,
}

impl Ink {
    /// Returns the class, and the colour on a light page.
    fn style(self) -> (&'static str, &'static str) {
        match self {
            Self::First => ("first", "#2166ac"),
            Self::Second => ("second", "#c2571a"),
            Self::Guide => ("guide", "#7b8494"),
        }
    }
}

/// A line of a chart.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The name in the legend; none if it is empty.
    pub(super) label: String,
    pub(super) ink: Ink,
    pub(super) points: Vec<(f64, f64)>,
    /// Set if the area below the line is filled.
    pub(super) filled: bool,
}

impl Line {
    /// Makes a line.
    pub(super) fn new(label: impl Into<String>, ink: Ink, points: Vec<(f64, f64)>) -> Self {
        Self { label: label.into(), ink, points, filled: false }
    }
}

/// A chart of lines.
#[derive(Clone, Debug)]
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    pub(super) lines: Vec<Line>,
    /// A point with a ring around it, and the meaning of the ring.
    pub(super) mark: Option<((f64, f64), String)>,
    /// Set if both axes go from 0 to 1.
    pub(super) is_square: bool,
    /// Set if the second axis begins at 0.
    pub(super) from_zero: bool,
}

/// An axis: the interval that it shows, and its ticks.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// Makes an axis for values. Without an interval of their own, the values have a margin.
    fn new(values: impl Iterator<Item = f64> + Clone, margin: f64, from_zero: bool) -> Self {
        let values = values.filter(|value| value.is_finite());
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let room = match high > low {
            true => (high - low) * margin,
            false => low.abs().max(1.0) * 0.05,
        };
        let (low, high) = (if from_zero { 0.0 } else { low - room }, high + room);
        Self { low, high, step: nice_step(high - low) }
    }

    /// Makes an axis from 0 to 1.
    fn unit() -> Self {
        Self { low: 0.0, high: 1.0, step: 0.2 }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let first = (self.low / self.step - 1e-9).ceil();
        let last = (self.high / self.step + 1e-9).floor();
        let count = if last >= first { (last - first) as usize + 1 } else { 0 };
        (0..count.min(20)).map(move |k| (first + k as f64) * self.step)
    }

    /// Formats a tick with as many digits as the step has.
    fn text(&self, tick: f64) -> String {
        let digits = (-self.step.log10()).ceil().clamp(0.0, 9.0) as usize;
        let text = format!("{tick:.digits$}");
        match digits {
            0 => grouped(&text),
            _ => text,
        }
    }

    /// Returns the place of a value on the axis, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// Returns 1, 2 or 5 times a power of ten: the smallest that divides a span into at most 6.
fn nice_step(span: f64) -> f64 {
    let rough = span / 6.0;
    if !(rough.is_finite() && rough > 0.0) {
        return 1.0;
    }
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough);
    factor.unwrap_or(10.0) * power
}

/// Groups the digits of a whole number by thousands.
pub(super) fn grouped(digits: &str) -> String {
    let (sign, digits) = digits.split_at(usize::from(digits.starts_with('-')));
    let mut text = sign.to_owned();
    for (k, digit) in digits.chars().enumerate() {
        if k > 0 && (digits.len() - k).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Escapes a text for HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Chart<'_> {
    /// Draws the chart.
    pub(super) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| line.points.iter());
        let (x, y) = match self.is_square {
            true => (Axis::unit(), Axis::unit()),
            false => (
                Axis::new(points().map(|point| point.0), 0.0, false),
                Axis::new(points().map(|point| point.1), 0.08, self.from_zero),
            ),
        };
        let place = |(at, value): (f64, f64)| {
            let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
            (LEFT + width * x.place(at), HEIGHT - BOTTOM - height * y.place(value))
        };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             role=\"img\" aria-label=\"{title}\" font-family=\"system-ui, sans-serif\" \
             font-size=\"12\">\n\
             <text class=\"ink\" fill=\"#1c2330\" x=\"{LEFT}\" y=\"18\" font-size=\"14\" \
             font-weight=\"600\">{title}</text>\n",
            title = escape(self.title)
        );
        self.axes(&mut svg, &x, &y, &place);
        self.legend(&mut svg);
        for line in &self.lines {
            draw(&mut svg, line, &place, &x);
        }
        if let Some((point, text)) = &self.mark {
            mark(&mut svg, place(*point), text);
        }
        svg += "</svg>";
        svg
    }

    fn axes(
        &self,
        svg: &mut String,
        x: &Axis,
        y: &Axis,
        place: &impl Fn((f64, f64)) -> (f64, f64),
    ) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for tick in y.ticks() {
            let (_, at) = place((x.low, tick));
            line(svg, "grid", "#e3e7ed", (LEFT, at), (right, at));
            text(svg, (LEFT - 6.0, at + 4.0), "end", &y.text(tick));
        }
        for tick in x.ticks() {
            let (at, _) = place((tick, y.low));
            line(svg, "axis", "#9aa3b0", (at, bottom), (at, bottom + 4.0));
            // A text that would leave the picture ends at its side.
            let (at, anchor) =
                if at > right - 16.0 { (right + 4.0, "end") } else { (at, "middle") };
            text(svg, (at, bottom + 17.0), anchor, &x.text(tick));
        }
        line(svg, "axis", "#9aa3b0", (LEFT, bottom), (right, bottom));
        text(svg, ((LEFT + right) / 2.0, HEIGHT - 8.0), "middle", self.x);
        let middle = (TOP + bottom) / 2.0;
        let _ = writeln!(
            svg,
            "<text class=\"muted\" fill=\"#5b6472\" text-anchor=\"middle\" \
             transform=\"translate(12 {middle}) rotate(-90)\">{}</text>",
            escape(self.y)
        );
    }

    fn legend(&self, svg: &mut String) {
        let mut at = LEFT;
        for Line { label, ink, .. } in self.lines.iter().filter(|line| !line.label.is_empty()) {
            let (class, color) = ink.style();
            let dashes = dashes(*ink);
            let _ = writeln!(
                svg,
                "<path class=\"{class}\" stroke=\"{color}\" stroke-width=\"2.5\" fill=\"none\"\
                 {dashes} d=\"M{at} 35h16\"/>"
            );
            text(svg, (at + 21.0, 39.0), "start", label);
            // The width of a character is about 6 units.
            at += 21.0 + 6.1 * label.chars().count() as f64 + 14.0;
        }
    }
}

fn dashes(ink: Ink) -> &'static str {
    if ink == Ink::Guide { " stroke-dasharray=\"5 4\"" } else { "" }
}

fn line(svg: &mut String, class: &str, color: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        svg,
        "<line class=\"{class}\" stroke=\"{color}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" \
         y2=\"{y2:.1}\"/>"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let text = escape(text);
    let _ = writeln!(
        svg,
        "<text class=\"muted\" fill=\"#5b6472\" text-anchor=\"{anchor}\" x=\"{x:.1}\" \
         y=\"{y:.1}\">{text}</text>"
    );
}

fn draw(svg: &mut String, line: &Line, place: &impl Fn((f64, f64)) -> (f64, f64), x: &Axis) {
    let (class, color) = line.ink.style();
    let points = line.points.iter().filter(|(at, value)| at.is_finite() && value.is_finite());
    let placed: Vec<(f64, f64)> = points.clone().map(|point| place(*point)).collect();
    let (Some(first), Some(last)) = (placed.first(), placed.last()) else { return };
    let mut path = String::new();
    for (k, (x, y)) in placed.iter().enumerate() {
        let _ = write!(path, "{}{x:.1} {y:.1}", if k == 0 { "M" } else { "L" });
    }
    if line.filled {
        let bottom = HEIGHT - BOTTOM;
        let _ = writeln!(
            svg,
            "<path class=\"area {class}\" fill=\"{color}\" fill-opacity=\"0.18\" stroke=\"none\" \
             d=\"{path}L{:.1} {bottom}L{:.1} {bottom}Z\"/>",
            last.0, first.0
        );
    }
    let dashes = dashes(line.ink);
    let _ = writeln!(
        svg,
        "<path class=\"{class}\" stroke=\"{color}\" stroke-width=\"2\" stroke-linejoin=\"round\" \
         fill=\"none\"{dashes} d=\"{path}\"/>"
    );
    if line.ink != Ink::Guide && !line.filled && placed.len() <= MAX_DOTS {
        for ((cx, cy), (at, value)) in placed.iter().zip(points) {
            let _ = writeln!(
                svg,
                "<circle class=\"dot {class}\" fill=\"{color}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" \
                 r=\"2.5\"><title>{}: {value:.4}</title></circle>",
                if x.step >= 1.0 { x.text(*at) } else { format!("{at:.4}") }
            );
        }
    }
}

/// Draws a ring around a point, and beside the title the same ring with its meaning.
fn mark(svg: &mut String, point: (f64, f64), label: &str) {
    // The width of a character is about 6 units.
    let sign = (WIDTH - RIGHT - 6.4 * label.chars().count() as f64 - 12.0, 14.0);
    for (x, y) in [point, sign] {
        let _ = writeln!(
            svg,
            "<circle class=\"ring\" fill=\"none\" stroke=\"#1c2330\" stroke-width=\"2\" \
             cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5.5\"/>"
        );
    }
    text(svg, (WIDTH - RIGHT, 18.0), "end", label);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let ticks = |values: [f64; 2], margin| {
            let axis = Axis::new(values.into_iter(), margin, false);
            axis.ticks().map(|tick| axis.text(tick)).collect::<Vec<_>>()
        };
        assert_eq!(ticks([0.0, 1.0], 0.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks([100.0, 358_000.0], 0.0), ["100,000", "200,000", "300,000"]);
        assert_eq!(ticks([0.6012, 0.6108], 0.0), ["0.602", "0.604", "0.606", "0.608", "0.610"]);
        // One value, none, and values that are no numbers.
        assert!(!ticks([3.0, 3.0], 0.1).is_empty());
        assert!(!ticks([f64::NAN, f64::INFINITY], 0.1).is_empty());
        assert_eq!(Axis::unit().place(7.0), 1.0);
    }

    #[test]
    fn digits_are_grouped() {
        for (digits, expected) in
            [("0", "0"), ("999", "999"), ("-1000", "-1,000"), ("1234567", "1,234,567")]
        {
            assert_eq!(grouped(digits), expected);
        }
    }

    #[test]
    fn a_chart_has_its_lines_and_escapes_its_texts() {
        let lines = vec![
            Line::new("a <b>", Ink::First, vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)]),
            Line::new("", Ink::Guide, vec![(0.0, 2.0), (2.0, 2.0)]),
        ];
        let chart = Chart {
            title: "x & y",
            x: "step",
            y: "loss",
            lines,
            mark: Some(((2.0, 3.0), "best".into())),
            is_square: false,
            from_zero: false,
        };
        let svg = chart.svg();
        assert!(svg.contains("x &amp; y") && svg.contains("a &lt;b&gt;"), "{svg}");
        assert!(svg.contains("best") && !svg.contains("NaN"), "{svg}");
        // A dot for each point that is a number, and the ring of the mark twice.
        assert_eq!(svg.matches("<circle").count(), 4);
    }
}
