//! The costs as a picture, in SVG: a panel for each direction and crowd, a line for each contender.

use std::fmt::Write as _;

/// Colours that stand out on white and on black, in the order of the series.
const COLOURS: [&str; 5] = ["#8b8f96", "#d1495b", "#d98e04", "#3a86c8", "#2a9d6f"];
const STYLE: &str = "\
.ground{fill:#ffffff}.text{fill:#24292f;font:12px sans-serif}.title{font-weight:bold}\
.grid{stroke:#d0d4d9;stroke-width:1}.axis{stroke:#57606a;stroke-width:1}\
.line{fill:none;stroke-width:2}.spread{stroke-width:1}\
@media(prefers-color-scheme:dark){.ground{fill:#15181c}.text{fill:#dde1e6}\
.grid{stroke:#343a41}.axis{stroke:#98a1ab}}";

/// Pixels: the part of a panel that has the lines, and what is around it.
const WIDTH: f64 = 250.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 14.0;
const ABOVE: f64 = 26.0;
const BELOW: f64 = 46.0;
/// Of the legend above all.
const LEGEND: f64 = 62.0;
/// Between the points of two series at one place.
const ASIDE: f64 = 4.0;
/// An entry of it.
const ENTRY: f64 = 190.0;

/// What is drawn.
#[derive(Debug, Default)]
pub struct Plot {
    /// What the picture shows.
    pub title: String,
    /// Names of the lines; panels have their points in this order.
    pub series: Vec<&'static str>,
    /// Rows of panels.
    pub rows: Vec<Vec<Panel>>,
}

/// One diagram.
#[derive(Debug, Default)]
pub struct Panel {
    /// What it shows.
    pub title: String,
    /// Places on the horizontal axis.
    pub places: Vec<Place>,
    /// For each series a point at each place, where there is one.
    pub points: Vec<Vec<Option<Point>>>,
}

/// A place on the horizontal axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What stands below it.
    pub label: String,
    /// Whether a line leads from the place before to this one.
    pub continues: bool,
}

/// A value with its extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Where the line passes.
    pub median: f64,
    /// The spread.
    pub least: f64,
    /// The spread.
    pub most: f64,
}

impl Plot {
    /// The file's text. Values are drawn by their logarithm: equal ratios look equal.
    pub fn svg(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let entries = self.series.len() as f64 * ENTRY;
        let width = (columns as f64 * (LEFT + WIDTH + RIGHT)).max(entries + LEFT);
        let height = LEGEND + self.rows.len() as f64 * (ABOVE + HEIGHT + BELOW);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\">\n<style>{STYLE}</style>\n\
             <rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n"
        );
        label(&mut text, "title", (LEFT, 20.0), "start", &self.title);
        for (index, name) in self.series.iter().enumerate() {
            let (x, y) = (LEFT + index as f64 * ENTRY, 42.0);
            let colour = COLOURS[index % COLOURS.len()];
            let _ = writeln!(
                text,
                "<rect x=\"{x}\" y=\"{}\" width=\"18\" height=\"6\" fill=\"{colour}\"/>",
                y - 8.0
            );
            label(&mut text, "", (x + 24.0, y), "start", name);
        }
        let scale = Scale::of(self);
        for (row, panels) in self.rows.iter().enumerate() {
            for (column, panel) in panels.iter().enumerate() {
                let x = column as f64 * (LEFT + WIDTH + RIGHT) + LEFT;
                let y = LEGEND + row as f64 * (ABOVE + HEIGHT + BELOW) + ABOVE;
                let _ = writeln!(text, "<g transform=\"translate({x} {y})\">");
                panel.axes(&mut text, &scale);
                panel.lines(&mut text, &scale, &self.series);
                text += "</g>\n";
            }
        }
        text + "</svg>\n"
    }
}

impl Panel {
    fn x(&self, place: usize) -> f64 {
        WIDTH * (place as f64 + 0.5) / self.places.len().max(1) as f64
    }

    fn axes(&self, text: &mut String, scale: &Scale) {
        label(text, "title", (WIDTH / 2.0, -9.0), "middle", &self.title);
        for value in scale.marks() {
            let y = scale.y(value);
            line(text, "grid", (0.0, y), (WIDTH, y));
            label(text, "", (-6.0, y + 4.0), "end", &format!("{value:.0}"));
        }
        line(text, "axis", (0.0, HEIGHT), (WIDTH, HEIGHT));
        line(text, "axis", (0.0, 0.0), (0.0, HEIGHT));
        for (index, place) in self.places.iter().enumerate() {
            let at = (self.x(index), HEIGHT + 16.0);
            label(text, "", at, "middle", &place.label);
        }
        let at = (WIDTH / 2.0, HEIGHT + 34.0);
        label(text, "", at, "middle", "inner packet, bytes");
        let _ = writeln!(
            text,
            "<text class=\"text\" text-anchor=\"middle\" transform=\"translate(-54 {}) \
             rotate(-90)\">ns a packet, log</text>",
            HEIGHT / 2.0
        );
    }

    fn lines(&self, text: &mut String, scale: &Scale, series: &[&str]) {
        for (index, (name, points)) in series.iter().zip(&self.points).enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let _ = writeln!(
                text,
                "<g class=\"series\" stroke=\"{colour}\" fill=\"{colour}\"><title>{}</title>",
                escaped(name)
            );
            let mut before = None;
            for (at, (place, point)) in self.places.iter().zip(points).enumerate() {
                let Some(point) = point else {
                    before = None;
                    continue;
                };
                // Side by side, so that none hides another.
                let x = self.x(at) + (index as f64 - series.len() as f64 / 2.0) * ASIDE;
                let here = (x, scale.y(point.median));
                if let Some(before) = before.filter(|_| place.continues) {
                    line(text, "line", before, here);
                }
                let (least, most) = (scale.y(point.least), scale.y(point.most));
                line(text, "spread", (here.0, least), (here.0, most));
                let value = format!("{name}, {}: {:.0} ns", place.label, point.median);
                let _ = writeln!(
                    text,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}</title></circle>",
                    here.0,
                    here.1,
                    escaped(&value)
                );
                before = Some(here);
            }
            text.push_str("</g>\n");
        }
    }
}

/// The vertical axis, the same in all panels.
struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    fn of(plot: &Plot) -> Self {
        let panels = plot.rows.iter().flatten();
        let points = panels.flat_map(|panel| panel.points.iter().flatten().flatten());
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for point in points {
            least = least.min(point.least);
            most = most.max(point.most);
        }
        if most <= 0.0 || least <= 0.0 {
            return Self {
                least: 1.0,
                most: 10.0,
            };
        }
        let marks: Vec<_> = steps().collect();
        let below = marks.iter().rev().find(|mark| **mark <= least);
        let above = marks.iter().find(|mark| **mark > most);
        Self {
            least: *below.unwrap_or(&least),
            most: *above.unwrap_or(&most),
        }
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT * (self.most / value).ln() / (self.most / self.least).ln()
    }

    fn marks(&self) -> impl Iterator<Item = f64> {
        steps().filter(|mark| (self.least..=self.most).contains(mark))
    }
}

/// 1, 2, 5, 10, 20 …
fn steps() -> impl Iterator<Item = f64> {
    (0..10).flat_map(|power| [1.0, 2.0, 5.0].map(|first| first * 10_f64.powi(power)))
}

fn label(text: &mut String, class: &str, at: (f64, f64), anchor: &str, words: &str) {
    let _ = writeln!(
        text,
        "<text class=\"text {class}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
        at.0,
        at.1,
        escaped(words)
    );
}

fn line(text: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        text,
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::{Panel, Place, Plot, Point, Scale};

    fn plot() -> Plot {
        let place = |label: &str, continues| Place {
            label: label.to_owned(),
            continues,
        };
        let point = |median: f64| {
            Some(Point {
                median,
                least: median * 0.9,
                most: median * 1.1,
            })
        };
        let panel = |title: &str| Panel {
            title: title.to_owned(),
            places: vec![
                place("64", true),
                place("1400", true),
                place("<mix>", false),
            ],
            points: vec![
                vec![point(2000.0), point(2500.0), point(2200.0)],
                vec![point(20_000.0), None, point(30_000.0)],
            ],
        };
        Plot {
            title: "costs & more".to_owned(),
            series: vec!["plain", "\"ours\" <x>"],
            rows: vec![vec![panel("up, 1"), panel("up, 64")], vec![panel("down")]],
        }
    }

    /// The names of elements that are open at the end, and whether all that ended were open.
    fn open_elements(text: &str) -> (Vec<&str>, bool) {
        let mut open = Vec::new();
        let mut is_good = true;
        for tag in text.split('<').skip(1) {
            let (inside, after) = tag.split_once('>').unwrap_or((tag, ">"));
            is_good &= !after.contains('>') && inside.matches('"').count() % 2 == 0;
            let name = inside.split([' ', '/']).next().unwrap_or_default();
            match inside.strip_prefix('/') {
                Some(name) => is_good &= open.pop() == Some(name),
                None if !inside.ends_with('/') => open.push(name),
                None => {}
            }
        }
        (open, is_good)
    }

    #[test]
    fn the_file_is_well_formed_and_has_every_series_in_every_panel() {
        let text = plot().svg();
        assert_eq!(open_elements(&text), (vec![], true));
        assert!(!open_elements("<a><b></a></b>").1);
        for name in ["plain", "&quot;ours&quot; &lt;x&gt;"] {
            let group = format!("><title>{name}</title>");
            let groups = text
                .lines()
                .filter(|line| line.contains("class=\"series\""));
            assert_eq!(groups.filter(|line| line.ends_with(&group)).count(), 3);
            assert!(text.contains(&format!(">{name}</text>")), "legend");
        }
        assert!(text.contains("costs &amp; more") && text.contains(">&lt;mix&gt;</text>"));
        assert_eq!(text.matches("ns a packet, log").count(), 3);
        assert_eq!(text.matches("<circle").count(), 3 * 5);
        // Mixed sizes are no continuation, nor is what follows a gap.
        assert_eq!(text.matches("class=\"line\"").count(), 3);
    }

    #[test]
    fn the_axis_holds_all_points() {
        let scale = Scale::of(&plot());
        assert_eq!((scale.least, scale.most), (1000.0, 50_000.0));
        assert!((scale.y(1000.0) - super::HEIGHT).abs() < 1e-9);
        assert!(scale.y(50_000.0).abs() < 1e-9);
        let nothing = Plot::default().svg();
        assert_eq!(open_elements(&nothing), (vec![], true));
        assert!(!nothing.contains("NaN"));
    }
}
