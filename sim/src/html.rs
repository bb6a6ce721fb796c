//! The report as one HTML page that needs nothing else: plots and the network drawn, as SVG in the page.

use std::fmt::Write as _;

use crate::{Report, report::Picture};

/// The page of some runs.
pub fn page(reports: &[Report]) -> String {
    let mut out = String::from(HEAD);
    for report in reports {
        section(&mut out, report);
    }
    out.push_str("</body></html>\n");
    out
}

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>mangrove sim</title><style>\
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1100px;padding:0 1em;color:#222;background:#fff}\
pre{background:#f5f5f3;padding:1em;overflow-x:auto}figure{display:inline-block;margin:0 1em 1.5em 0;vertical-align:top}\
figcaption{font-weight:600;margin-bottom:.3em}svg{background:#fafaf8;border:1px solid #ddd}text{font:11px sans-serif;fill:#555}\
</style></head><body>\n";
const COLOURS: [&str; 8] =
    ["#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b7791f", "#c53030", "#319795", "#4a5568"];
const WIDTH: f64 = 500.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 48.0;
const BOTTOM: f64 = 26.0;
const TOP: f64 = 12.0;

/// A line of a plot: its name and points.
type Line = (String, Vec<(f64, f64)>);

fn section(out: &mut String, report: &Report) {
    let Picture { degrees, depths, bytes, frames, forwarded, .. } = &report.picture;
    write(
        out,
        format_args!(
            "<h1>{}, {} nodes, seed {}</h1>\n",
            escaped(&report.topology),
            report.nodes,
            report.seed
        ),
    );
    write(out, format_args!("<pre>{}</pre>\n", escaped(&report.to_string())));
    let over_time = |pick: &dyn Fn(&crate::report::Second) -> Option<f64>| -> Vec<(f64, f64)> {
        report.seconds.iter().filter_map(|second| Some((second.at as f64, pick(second)?))).collect()
    };
    let delivery = [
        ("flows, first try".to_owned(), over_time(&|second| second.flows)),
        ("strangers, first try".to_owned(), over_time(&|second| second.strangers)),
        ("all, three tries".to_owned(), over_time(&|second| second.retried)),
    ];
    let marks: Vec<(f64, &str)> =
        report.events.iter().map(|event| (event.at_s, event.kind.as_str())).collect();
    plot(out, "Delivery over virtual time (s)", &delivery, Some(1.0), &marks);
    let counted = |counts: &std::collections::BTreeMap<usize, usize>| -> Vec<(f64, f64)> {
        counts.iter().map(|(&value, &nodes)| (value as f64, nodes as f64)).collect()
    };
    plot(out, "Nodes by degree", &[("nodes".to_owned(), counted(degrees))], None, &[]);
    let shapes: Vec<Line> =
        depths.iter().enumerate().map(|(tree, depths)| (format!("tree {tree}"), counted(depths))).collect();
    plot(out, "Nodes by depth, of each tree", &shapes, None, &[]);
    let stretches = [
        ("first packet", report.stretch.first_packet),
        ("source route", report.stretch.route),
        ("time", report.stretch.latency),
    ];
    let stretches: Vec<Line> = stretches
        .into_iter()
        .filter_map(|(name, stretch)| {
            let stretch = stretch?;
            Some((name.to_owned(), vec![(0.5, stretch.p50), (0.99, stretch.p99)]))
        })
        .collect();
    plot(out, "Stretch, median to 99 of 100", &stretches, None, &[]);
    plot(out, "Packets passed on, nodes in order", &[("packets".to_owned(), ranked(forwarded))], None, &[]);
    plot(out, "Bytes sent, nodes in order", &[("bytes".to_owned(), ranked(bytes))], None, &[]);
    plot(out, "Control frames sent, nodes in order", &[("frames".to_owned(), ranked(frames))], None, &[]);
    drawing(out, report);
}

/// Values from the greatest to the least, thinned out to what can be seen.
fn ranked(values: &[u64]) -> Vec<(f64, f64)> {
    let mut values = values.to_vec();
    values.sort_unstable_by(|a, b| b.cmp(a));
    let step = values.len().div_ceil(400).max(1);
    values.iter().enumerate().step_by(step).map(|(at, &value)| (at as f64, value as f64)).collect()
}

fn plot(out: &mut String, title: &str, lines: &[Line], top: Option<f64>, marks: &[(f64, &str)]) {
    let lines: Vec<&Line> = lines.iter().filter(|(_, points)| !points.is_empty()).collect();
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    if lines.is_empty() {
        return;
    }
    let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MAX, f64::min);
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MIN, f64::max);
    let (x0, x1) = (least(&mut points().map(|p| p.0)), most(&mut points().map(|p| p.0)));
    // Shares are shown from where something happens, counts from nothing.
    let y0 = if top.is_some() { (least(&mut points().map(|p| p.1)) - 0.02).max(0.0) } else { 0.0 };
    let y1 = top.unwrap_or_else(|| most(&mut points().map(|p| p.1))).max(y0 + 1e-9);
    let x = |value: f64| LEFT + (value - x0) / (x1 - x0).max(1e-9) * (WIDTH - LEFT - 10.0);
    let y = |value: f64| HEIGHT - BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - BOTTOM - TOP);
    write(
        out,
        format_args!(
            "<figure><figcaption>{}</figcaption><svg width=\"{WIDTH}\" height=\"{HEIGHT}\">",
            escaped(title)
        ),
    );
    for part in 0..=4 {
        let value = y0 + (y1 - y0) * f64::from(part) / 4.0;
        write(
            out,
            format_args!(
                "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#e5e5e0\"/><text x=\"2\" y=\"{1:.1}\">{2}</text>",
                y(value),
                y(value) + 4.0,
                short(value)
            ),
        );
        let value = x0 + (x1 - x0) * f64::from(part) / 4.0;
        let at = x(value).min(WIDTH - 30.0);
        write(out, format_args!("<text x=\"{at:.1}\" y=\"{:.1}\">{}</text>", HEIGHT - 8.0, short(value)));
    }
    for (at, name) in marks {
        write(
            out,
            format_args!(
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{1}\" stroke=\"#c53030\" stroke-dasharray=\"3\"/><text x=\"{2:.1}\" y=\"{3}\">{4}</text>",
                x(*at),
                HEIGHT - BOTTOM,
                x(*at) + 3.0,
                TOP + 10.0,
                escaped(name)
            ),
        );
    }
    for (number, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        out.push_str("<polyline fill=\"none\" stroke-width=\"1.5\" points=\"");
        for &(px, py) in points {
            write(out, format_args!("{:.1},{:.1} ", x(px), y(py)));
        }
        write(out, format_args!("\" stroke=\"{colour}\"/>"));
        let row = HEIGHT - BOTTOM - 6.0 - 13.0 * (lines.len() - 1 - number) as f64;
        write(
            out,
            format_args!(
                "<text x=\"{}\" y=\"{row:.0}\" style=\"fill:{colour}\">{}</text>",
                LEFT + 8.0,
                escaped(name)
            ),
        );
    }
    out.push_str("</svg></figure>\n");
}

/// Links thin, the first tree thick, droppers red, the size of a node by what it passed on.
fn drawing(out: &mut String, report: &Report) {
    let picture = &report.picture;
    if picture.links.is_empty() {
        return;
    }
    let places = picture.places.clone().unwrap_or_else(|| laid_out(picture.parents.len(), picture));
    const SIDE: f64 = 1000.0;
    let at = |node: u32| {
        let [x, y] = places.get(node as usize).copied().unwrap_or_default();
        (f64::from(x) * (SIDE - 20.0) + 10.0, f64::from(y) * (SIDE - 20.0) + 10.0)
    };
    write(
        out,
        format_args!(
            "<figure><figcaption>The network; thick: the first tree; red: not honest</figcaption><svg width=\"{SIDE}\" height=\"{SIDE}\">"
        ),
    );
    let mut line = |a: u32, b: u32, style: &str| {
        let ((x1, y1), (x2, y2)) = (at(a), at(b));
        write(
            out,
            format_args!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {style}/>"),
        );
    };
    for &[a, b] in &picture.links {
        line(a, b, "stroke=\"#cbd5e0\" stroke-width=\".6\"");
    }
    for (node, parent) in picture.parents.iter().enumerate() {
        if let Some(parent) = parent {
            line(node as u32, *parent, "stroke=\"#2b6cb0\" stroke-width=\"1.4\"");
        }
    }
    let most = picture.forwarded.iter().copied().max().unwrap_or(0).max(1) as f64;
    for node in 0..picture.parents.len() as u32 {
        let ((x, y), passed) = (at(node), picture.forwarded.get(node as usize).copied().unwrap_or(0));
        let radius = 1.5 + 6.0 * (passed as f64 / most).sqrt();
        let colour = if picture.villains.contains(&node) { "#c53030" } else { "#2d3748" };
        write(out, format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{colour}\"/>"));
    }
    out.push_str("</svg></figure>\n");
}

/// Places for a network that has none: rings around the root of the first tree by depth, each node within its parent's sector.
fn laid_out(nodes: usize, picture: &Picture) -> Vec<[f32; 2]> {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    let mut roots = Vec::new();
    for (node, parent) in picture.parents.iter().enumerate() {
        match parent {
            Some(parent) => children[*parent as usize].push(node),
            None => roots.push(node),
        }
    }
    // Leaves below each node, deepest first.
    let mut order = roots.clone();
    let mut next = 0;
    while next < order.len() {
        let node = order[next];
        next += 1;
        if order.len() <= nodes {
            order.extend(&children[node]);
        }
    }
    let mut leaves = vec![1.0f64; nodes];
    for &node in order.iter().rev() {
        if !children[node].is_empty() {
            leaves[node] = children[node].iter().map(|&child| leaves[child]).sum();
        }
    }
    let mut sectors = vec![(0.0, std::f64::consts::TAU, 0usize); nodes];
    let all: f64 = roots.iter().map(|&root| leaves[root]).sum();
    let mut from = 0.0;
    for &root in &roots {
        let width = std::f64::consts::TAU * leaves[root] / all.max(1.0);
        sectors[root] = (from, from + width, usize::from(roots.len() > 1));
        from += width;
    }
    let mut deepest = 1;
    for &node in &order {
        let (mut from, until, depth) = sectors[node];
        let width = (until - from) / leaves[node].max(1.0);
        for &child in &children[node] {
            sectors[child] = (from, from + width * leaves[child], depth + 1);
            from += width * leaves[child];
            deepest = deepest.max(depth + 1);
        }
    }
    sectors
        .iter()
        .map(|&(from, until, depth)| {
            let (angle, radius) = ((from + until) / 2.0, depth as f64 / deepest as f64 / 2.0);
            [(0.5 + radius * angle.cos()) as f32, (0.5 + radius * angle.sin()) as f32]
        })
        .collect()
}

fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 1e6 => format!("{:.1}M", value / 1e6),
        large if large >= 1e4 => format!("{:.0}k", value / 1e3),
        large if large >= 10.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn write(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Scenario, Topology,
        event::{Event, Kind},
        scenario,
    };

    #[test]
    fn the_page_has_plots_and_the_network_and_nothing_from_elsewhere() {
        let mut small = Scenario::new(Topology::ScaleFree, 12, 1);
        small.duration = std::time::Duration::from_secs(60);
        small.events.push(Event { at_s: Some(35.0), ..Event::new(Kind::HubCrash) });
        small.watch(10);
        let page = page(&[scenario::run(&small, |_, _| ()).unwrap()]);
        assert!(page.matches("<svg").count() >= 7, "{}", page.matches("<svg").count());
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert!(page.contains("hub-crash") && page.contains("tree 3") && page.contains("<circle"));
        assert!(!page.contains("http") && !page.contains("NaN") && !page.contains("inf"));
    }
}
