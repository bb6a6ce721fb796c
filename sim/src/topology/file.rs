//! Networks from files: lists of edges and GraphML, packed with gzip or not.

use std::{collections::HashMap, fs::File, io::Read, path::Path, time::Duration};

use super::{Cable, Network, SHORT};

/// A file larger than that, unpacked, is no network that could be simulated.
const BYTES_MAX: u64 = 256 << 20;

/// Reads a network. Names of nodes become numbers in the order in which they appear.
pub(super) fn read(path: &Path) -> Result<Network, String> {
    let about = |what: String| format!("{}: {what}", path.display());
    let file = File::open(path).map_err(|error| about(format!("cannot open it: {error}")))?;
    let mut bytes = Vec::new();
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    let read = if packed {
        flate2::read::MultiGzDecoder::new(file).take(BYTES_MAX).read_to_end(&mut bytes)
    } else {
        file.take(BYTES_MAX).read_to_end(&mut bytes)
    };
    read.map_err(|error| about(format!("cannot read it: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| about("is not UTF-8 text".to_owned()))?;
    let network = if text.trim_start().starts_with('<') { graphml(&text) } else { edges(&text) };
    let network = network.map_err(about)?;
    if network.nodes == 0 { Err(about("no node is in it".to_owned())) } else { Ok(network) }
}

#[derive(Default)]
struct Building {
    numbers: HashMap<String, u32>,
    known: HashMap<(u32, u32), usize>,
    cables: Vec<Cable>,
}

impl Building {
    fn node(&mut self, name: &str) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(name.to_owned()).or_insert(next)
    }

    /// A pair that comes again (many lists name both directions) is one link, the first.
    fn link(&mut self, a: &str, b: &str, latency_ms: Option<f64>, mbit_s: Option<f64>, loss: Option<f64>) {
        let (a, b) = (self.node(a), self.node(b));
        if a == b {
            return;
        }
        let (a, b) = (a.min(b), a.max(b));
        let at = self.cables.len();
        if *self.known.entry((a, b)).or_insert(at) != at {
            return;
        }
        let latency = latency_ms.map_or(SHORT, |ms| {
            let latency = Duration::from_secs_f64(ms / 1000.0);
            (latency, latency)
        });
        let rate = mbit_s.map(|mbit| (mbit * 125_000.0) as u64);
        self.cables.push(Cable { a, b, latency, rate, loss: loss.map(|percent| percent / 100.0) });
    }

    fn done(self) -> Network {
        Network { nodes: self.numbers.len(), cables: self.cables, places: None }
    }
}

fn edges(text: &str) -> Result<Network, String> {
    let mut building = Building::default();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split([' ', '\t', ',', ';']).filter(|word| !word.is_empty()).collect();
        let wrong = || format!("line {}: expected `a b [latency_ms [mbit_s [loss_percent]]]`", number + 1);
        match words[..] {
            [] => {}
            [name] => {
                building.node(name);
            }
            [a, b, ref rest @ ..] if rest.len() <= 3 => {
                let mut figures = [None; 3];
                for (figure, word) in figures.iter_mut().zip(rest) {
                    let value: f64 = word.parse().map_err(|_| wrong())?;
                    *figure = Some(value).filter(|value| value.is_finite() && *value >= 0.0);
                    if figure.is_none() {
                        return Err(wrong());
                    }
                }
                let [latency, rate, loss] = figures;
                if latency.is_some_and(|ms| ms > 60_000.0) || loss.is_some_and(|percent| percent > 90.0) {
                    return Err(wrong());
                }
                building.link(a, b, latency, rate, loss);
            }
            _ => return Err(wrong()),
        }
    }
    Ok(building.done())
}

/// The elements `node`, `edge`, `key` and `data` of GraphML; keys named latency or latency_ms, mbit_s or rate, and loss count.
fn graphml(text: &str) -> Result<Network, String> {
    let mut building = Building::default();
    let mut keys: HashMap<String, String> = HashMap::new();
    let mut edge: Option<(String, String, [Option<f64>; 3])> = None;
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.split_once("-->").ok_or("a comment does not end")?.1;
            continue;
        }
        let (tag, after) = rest.split_once('>').ok_or("a tag does not end")?;
        rest = after;
        let closed = tag.ends_with('/');
        let name = tag.split([' ', '\t', '\n', '\r', '/']).find(|word| !word.is_empty()).unwrap_or_default();
        match (name, tag.starts_with('/')) {
            ("key", false) => {
                if let (Some(id), Some(name)) = (attribute(tag, "id"), attribute(tag, "attr.name")) {
                    keys.insert(id, name);
                }
            }
            ("node", false) => {
                building.node(&attribute(tag, "id").ok_or("a node without id")?);
            }
            ("edge", false) => {
                let ends = attribute(tag, "source").zip(attribute(tag, "target"));
                let (a, b) = ends.ok_or("an edge without source and target")?;
                if closed {
                    building.link(&a, &b, None, None, None);
                } else {
                    edge = Some((a, b, [None; 3]));
                }
            }
            ("data", false) => {
                let Some((_, _, figures)) = &mut edge else { continue };
                let key = attribute(tag, "key").unwrap_or_default();
                let which = match keys.get(&key).map_or(key.as_str(), String::as_str) {
                    "latency" | "latency_ms" => 0,
                    "mbit_s" | "rate" => 1,
                    "loss" => 2,
                    _ => continue,
                };
                let value = rest.split('<').next().unwrap_or_default().trim().parse::<f64>().ok();
                figures[which] = value.filter(|value| value.is_finite() && (0.0..=60_000.0).contains(value));
            }
            ("edge", true) => {
                if let Some((a, b, [latency, rate, loss])) = edge.take() {
                    building.link(&a, &b, latency, rate, loss.map(|percent| percent.min(90.0)));
                }
            }
            _ => {}
        }
    }
    Ok(building.done())
}

/// The value of a tag's attribute.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let mut rest = tag;
    loop {
        let at = rest.find(name)?;
        let (before, after) = rest.split_at(at);
        rest = &after[name.len()..];
        let value = rest.trim_start().strip_prefix('=').map(str::trim_start);
        if let Some(value) = value.filter(|_| before.ends_with(char::is_whitespace)) {
            let quote = value.chars().next().filter(|&c| c == '"' || c == '\'')?;
            return Some(value[1..].split(quote).next()?.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_edges() {
        let network = edges("# a comment\na b 10 100 1.5\nb c\nc a 5 # there\nb a 3\nlonely\n").unwrap();
        assert_eq!(network.nodes, 4);
        assert_eq!(network.cables.len(), 3);
        let first = network.cables[0];
        assert_eq!((first.a, first.b, first.rate, first.loss), (0, 1, Some(12_500_000), Some(0.015)));
        assert_eq!(first.latency.0, Duration::from_millis(10));
        assert_eq!(network.cables[1].latency, SHORT);
        assert!(edges("a b x").unwrap_err().contains("line 1"));
        assert!(edges("a b 1 2 3 4").is_err());
        assert!(edges("a b -1").is_err());
    }

    #[test]
    fn graphml_with_latencies() {
        let text = r#"<?xml version="1.0"?><graphml><!-- <node id="no"/> -->
            <key id="d0" for="edge" attr.name="latency_ms" attr.type="double"/>
            <graph edgedefault="undirected"><node id="n0"/><node id='n1'><data key="d9">x</data></node><node id="n2"/>
            <edge id="e" source="n0" target="n1"><data key="d0">7.5</data></edge>
            <edge source="n1" target="n2"/></graph></graphml>"#;
        let network = graphml(text).unwrap();
        assert_eq!((network.nodes, network.cables.len()), (3, 2));
        assert_eq!(network.cables[0].latency.0, Duration::from_micros(7500));
        assert!(graphml("<graphml><edge source='a'/></graphml>").is_err());
    }
}
