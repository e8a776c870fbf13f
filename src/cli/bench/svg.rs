//! The drawing that `fs bench --svg` writes: tokens/s against depth, and the roofline.
//!
//! The roofline (Williams, Waterman and Patterson, 2009): how much arithmetic a program does for each byte it reads says
//! which of the machine's limits holds it. Left of the ridge memory does, right of it arithmetic.

use crate::cli::common::count;
use failed_star::session::bench::BenchReport;
use std::fmt::Write;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 420.0;

/// Colours that read on both backgrounds, so that the file can stand on a light page and on a dark one.
const STYLE: &str = "\
.page{fill:#fff}.text{fill:#222}.grid{stroke:#ddd}.axis{stroke:#888}.roof{stroke:#444}\
.prefill{color:#c2570c}.decode{color:#1d63c4}\
@media(prefers-color-scheme:dark){.page{fill:#16181d}.text{fill:#ddd}.grid{stroke:#33363d}.axis{stroke:#888}.roof{stroke:#bbb}\
.prefill{color:#f59a57}.decode{color:#7fb2ff}}\
text{font:12px system-ui,sans-serif}.title{font-weight:600;font-size:14px}\
.grid,.axis,.roof{fill:none;stroke-width:1}.roof{stroke-width:2}\
.line{fill:none;stroke:currentColor;stroke-width:2}.dot{fill:currentColor}.label{fill:currentColor}";

/// How the lines of different cache types are told apart.
const DASHES: [&str; 4] = ["none", "7 4", "2 3", "9 3 2 3"];

/// One axis: values from `low` to `high` lie on pixels from `from` to `to`.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Axis {
    /// A logarithmic axis that holds all values, with some air.
    fn log(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values.filter(|v| *v > 0.0).fold((f64::MAX, 0.0f64), |(a, b), v| (a.min(v), b.max(v)));
        let (low, high) = if low <= high { (low, high) } else { (1.0, 1.0) };
        Self { low: low / 1.8, high: high * 1.8, from, to, logarithmic: true }
    }

    /// A linear axis from 0 to `high`.
    fn linear(high: f64, from: f64, to: f64) -> Self {
        Self { low: 0.0, high, from, to, logarithmic: false }
    }

    fn at(&self, value: f64) -> f64 {
        let share = match self.logarithmic {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        self.from + share * (self.to - self.from)
    }

    /// Round values, about four to eight of them.
    fn ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            let rough = self.high / 5.0;
            let decade = 10f64.powf(rough.log10().floor());
            let step =
                [1.0, 2.0, 5.0, 10.0].map(|n| n * decade).into_iter().find(|step| *step >= rough).unwrap_or(rough);
            return (0..).map(|i| f64::from(i) * step).take_while(|v| *v <= self.high * 1.0001).collect();
        }
        let decades = (self.high / self.low).log10();
        let within: &[f64] = if decades < 1.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let every = (decades / 6.0).ceil().max(1.0) as i32;
        let first = self.low.log10().floor() as i32;
        let exponents = (first..=self.high.log10().ceil() as i32).filter(|e| e % every == 0);
        let values = exponents.flat_map(|e| within.iter().map(move |n| n * 10f64.powi(e)));
        values.filter(|v| (self.low..=self.high).contains(v)).collect()
    }
}

/// A number as short as it can be read, in three digits: `0.5`, `20`, `3 k`, `150 G`.
fn short(value: f64) -> String {
    let units = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, "")];
    let (scale, unit) = units.into_iter().find(|(scale, _)| value >= *scale).unwrap_or((1.0, ""));
    let value = value / scale;
    let digits = if value >= 99.5 {
        1.0
    } else if value >= 9.95 {
        10.0
    } else {
        100.0
    };
    format!("{}{unit}", (value * digits).round() / digits)
}

/// Text that may hold anything, as XML has it.
fn escape(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Draws a report.
pub fn draw(report: &BenchReport) -> String {
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut svg, report);
    svg
}

fn write(svg: &mut String, report: &BenchReport) -> std::fmt::Result {
    write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" "
    )?;
    let title = format!(
        "{} · {} · {} {} · {}",
        report.model,
        report.dtype,
        report.backend,
        report.device,
        count(report.threads, "thread")
    );
    writeln!(svg, "role=\"img\"><title>{}</title><style>{STYLE}</style>", escape(&title))?;
    writeln!(svg, "<rect class=\"page\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>")?;
    text(svg, (20.0, 26.0), "start", "text title", &title)?;
    tokens_against_depth(svg, report)?;
    roofline(svg, report)?;
    writeln!(svg, "</svg>")
}

fn tokens_against_depth(svg: &mut String, report: &BenchReport) -> std::fmt::Result {
    let points = || {
        report.results.iter().flat_map(|point| {
            let phases = [("prefill", &point.prefill), ("decode", &point.decode)];
            phases.map(|(phase, measured)| measured.as_ref().map(|m| (phase, point, &m.tokens_per_second)))
        })
    };
    let deepest = report.results.iter().map(|point| point.depth).max().unwrap_or(0).max(1) as f64;
    let x = Axis::linear(deepest * 1.05, 70.0, 400.0);
    let y = Axis::log(points().flatten().flat_map(|(_, _, rate)| [rate.min, rate.max]), 360.0, 60.0);
    frame(svg, &x, &y, ["tokens in the cache before", "tokens/s"])?;
    let mut kinds: Vec<&str> = Vec::new();
    for point in &report.results {
        if !kinds.contains(&point.kv) {
            kinds.push(point.kv);
        }
    }
    for (i, phase) in ["prefill", "decode"].iter().enumerate() {
        let left = 130.0 + 70.0 * i as f64;
        writeln!(svg, "<g class=\"{phase}\"><circle class=\"dot\" cx=\"{left}\" cy=\"46\" r=\"4\"/>")?;
        text(svg, (left + 8.0, 50.0), "start", "label", phase)?;
        writeln!(svg, "</g>")?;
    }
    for (i, (kind, dashes)) in kinds.iter().zip(DASHES.iter().cycle()).enumerate() {
        let left = 270.0 + 80.0 * i as f64;
        let line = format!("x1=\"{left}\" x2=\"{}\" y1=\"46\" y2=\"46\"", left + 28.0);
        writeln!(svg, "<line class=\"roof\" stroke-dasharray=\"{dashes}\" {line}/>")?;
        text(svg, (left + 34.0, 50.0), "start", "text", &format!("kv {kind}"))?;
        for phase in ["prefill", "decode"] {
            let line = || points().flatten().filter(|(p, point, _)| *p == phase && point.kv == *kind);
            let path: Vec<String> = line()
                .map(|(_, point, rate)| format!("{:.1},{:.1}", x.at(point.depth as f64), y.at(rate.median)))
                .collect();
            if path.is_empty() {
                continue;
            }
            writeln!(
                svg,
                "<g class=\"{phase}\"><polyline class=\"line\" stroke-dasharray=\"{dashes}\" points=\"{}\"/>",
                path.join(" ")
            )?;
            for (_, point, rate) in line() {
                let at = x.at(point.depth as f64);
                let (top, bottom) = (y.at(rate.max), y.at(rate.min));
                writeln!(
                    svg,
                    "<line class=\"line\" x1=\"{at:.1}\" y1=\"{top:.1}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\"/>"
                )?;
                writeln!(svg, "<circle class=\"dot\" cx=\"{at:.1}\" cy=\"{:.1}\" r=\"3.5\"/>", y.at(rate.median))?;
            }
            writeln!(svg, "</g>")?;
        }
    }
    Ok(())
}

fn roofline(svg: &mut String, report: &BenchReport) -> std::fmt::Result {
    let mut dots = Vec::new();
    for point in &report.results {
        for (phase, measured) in [("prefill", &point.prefill), ("decode", &point.decode)] {
            if let Some(m) = measured {
                dots.push((phase, point, m.flop / m.bytes, m.flop_per_second));
            }
        }
    }
    let bandwidth = report.machine.read_bytes_per_second;
    let (peaks, highest) = (&report.machine.peaks, report.peak().map(|peak| peak.ops_per_second));
    let ridge = bandwidth.zip(highest).map(|(bandwidth, peak)| peak / bandwidth);
    let x = Axis::log(dots.iter().map(|dot| dot.2).chain(ridge), 560.0, 930.0);
    let tops = peaks.iter().map(|peak| peak.ops_per_second);
    let y = Axis::log(dots.iter().map(|dot| dot.3).chain(tops), 360.0, 60.0);
    frame(svg, &x, &y, ["FLOP for each byte read", "FLOP/s"])?;
    // The slanted roof is memory's, a level one each instruction's.
    for peak in peaks {
        let top = y.at(peak.ops_per_second);
        let from = bandwidth.map_or(x.low, |bandwidth| (peak.ops_per_second / bandwidth).clamp(x.low, x.high));
        writeln!(
            svg,
            "<line class=\"roof\" x1=\"{:.1}\" y1=\"{top:.1}\" x2=\"{}\" y2=\"{top:.1}\"/>",
            x.at(from),
            x.to
        )?;
        let label = format!("{} {}op/s", peak.instruction, short(peak.ops_per_second));
        text(svg, (x.to, top - 6.0), "end", "text", &label)?;
    }
    if let Some(bandwidth) = bandwidth {
        let low = x.low.max(y.low / bandwidth);
        let high = highest.map_or(x.high, |peak| (peak / bandwidth).min(x.high)).min(y.high / bandwidth);
        if low < high {
            let ends = [low, high].map(|v| (x.at(v), y.at(v * bandwidth)));
            let [(x1, y1), (x2, y2)] = ends;
            writeln!(svg, "<line class=\"roof\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>")?;
            // Right of the middle of a line that rises is below it.
            text(
                svg,
                ((x1 + x2) / 2.0 + 12.0, (y1 + y2) / 2.0 + 8.0),
                "start",
                "text",
                &format!("reads {}B/s", short(bandwidth)),
            )?;
        }
    }
    for (phase, point, intensity, rate) in dots {
        let (cx, cy) = (x.at(intensity), y.at(rate));
        writeln!(svg, "<g class=\"{phase}\"><circle class=\"dot\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4\">")?;
        writeln!(svg, "<title>{phase}, kv {}, depth {}</title></circle>", point.kv, point.depth)?;
        // One name for each cloud of dots.
        if point.depth == report.results[0].depth && point.kv == report.results[0].kv {
            let (beside, anchor) = if phase == "prefill" { (-9.0, "end") } else { (9.0, "start") };
            text(svg, (cx + beside, cy + 4.0), anchor, "label", phase)?;
        }
        writeln!(svg, "</g>")?;
    }
    Ok(())
}

/// Grid, axes, numbers and the axes' names.
fn frame(svg: &mut String, x: &Axis, y: &Axis, [x_name, y_name]: [&str; 2]) -> std::fmt::Result {
    for tick in x.ticks() {
        let at = x.at(tick);
        writeln!(svg, "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{}\" x2=\"{at:.1}\" y2=\"{}\"/>", y.from, y.to)?;
        text(svg, (at, y.from + 18.0), "middle", "text", &short(tick))?;
    }
    for tick in y.ticks() {
        let at = y.at(tick);
        writeln!(svg, "<line class=\"grid\" x1=\"{}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\"/>", x.from, x.to)?;
        text(svg, (x.from - 8.0, at + 4.0), "end", "text", &short(tick))?;
    }
    writeln!(svg, "<path class=\"axis\" d=\"M{} {}V{}H{}\"/>", x.from, y.to, y.from, x.to)?;
    text(svg, ((x.from + x.to) / 2.0, y.from + 40.0), "middle", "text", x_name)?;
    text(svg, (x.from, y.to - 10.0), "middle", "text", y_name)
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, class: &str, text: &str) -> std::fmt::Result {
    writeln!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(text))
}
