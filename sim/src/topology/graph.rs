//! The network as a graph of latencies: shortest ways and components.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// Nodes and the latencies between neighbours.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// Where each node's neighbours begin in `ends`; one more at the end.
    first: Vec<u32>,
    ends: Vec<(u32, u32)>,
}

impl Graph {
    /// A graph of these links.
    pub fn new(nodes: usize, links: impl IntoIterator<Item = (usize, usize, Duration)>) -> Self {
        let links: Vec<(u32, u32, u32)> = links
            .into_iter()
            .map(|(a, b, latency)| {
                (a as u32, b as u32, u32::try_from(latency.as_micros()).unwrap_or(u32::MAX))
            })
            .collect();
        let mut first = vec![0u32; nodes + 1];
        for &(a, b, _) in &links {
            first[a as usize + 1] += 1;
            first[b as usize + 1] += 1;
        }
        for node in 0..nodes {
            first[node + 1] += first[node];
        }
        let mut next = first.clone();
        let mut ends = vec![(0, 0); links.len() * 2];
        for (a, b, latency) in links {
            for (from, to) in [(a, b), (b, a)] {
                let at = &mut next[from as usize];
                ends[*at as usize] = (to, latency);
                *at += 1;
            }
        }
        Self { first, ends }
    }

    fn len(&self) -> usize {
        self.first.len().saturating_sub(1)
    }

    /// A node's neighbours with the latency to each, in microseconds.
    pub fn neighbours(&self, node: usize) -> &[(u32, u32)] {
        &self.ends[self.first[node] as usize..self.first[node + 1] as usize]
    }

    /// The least latency from a node to each; `None` where no way leads.
    pub fn distances(&self, from: usize) -> Vec<Option<Duration>> {
        let micros = self.least(from);
        micros.into_iter().map(|micros| (micros != u64::MAX).then(|| Duration::from_micros(micros))).collect()
    }

    fn least(&self, from: usize) -> Vec<u64> {
        let mut distances = vec![u64::MAX; self.len()];
        let mut heap = BinaryHeap::from([Reverse((0u64, from as u32))]);
        distances[from] = 0;
        while let Some(Reverse((distance, node))) = heap.pop() {
            if distance > distances[node as usize] {
                continue;
            }
            for &(next, latency) in self.neighbours(node as usize) {
                let through = distance + u64::from(latency);
                if through < distances[next as usize] {
                    distances[next as usize] = through;
                    heap.push(Reverse((through, next)));
                }
            }
        }
        distances
    }

    /// The nodes on a way of the least latency, both ends included; `None` where no way leads.
    pub fn shortest(&self, from: u32, to: u32) -> Option<Vec<u32>> {
        let left = self.least(to as usize);
        (left[from as usize] != u64::MAX).then_some(())?;
        let mut way = vec![from];
        let mut at = from;
        while at != to {
            let on = |&&(next, latency): &&(u32, u32)| {
                left[next as usize].saturating_add(latency.into()) == left[at as usize] && latency > 0
            };
            at = self.neighbours(at as usize).iter().find(on)?.0;
            way.push(at);
        }
        Some(way)
    }

    /// The component of each node of `alive`, as the least number in it.
    pub fn components(&self, alive: impl Fn(usize) -> bool) -> Vec<Option<usize>> {
        let mut component = vec![None; self.len()];
        let mut open = Vec::new();
        for start in 0..self.len() {
            if component[start].is_some() || !alive(start) {
                continue;
            }
            component[start] = Some(start);
            open.push(start);
            while let Some(node) = open.pop() {
                for &(next, _) in self.neighbours(node) {
                    let next = next as usize;
                    if component[next].is_none() && alive(next) {
                        component[next] = Some(start);
                        open.push(next);
                    }
                }
            }
        }
        component
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_the_least() {
        let ms = Duration::from_millis;
        let graph = Graph::new(4, [(0, 1, ms(5)), (1, 2, ms(5)), (0, 2, ms(20))]);
        assert_eq!(graph.distances(0), [Some(ms(0)), Some(ms(5)), Some(ms(10)), None]);
        assert_eq!(graph.shortest(0, 2), Some(vec![0, 1, 2]));
        assert_eq!(graph.shortest(0, 3), None);
        assert_eq!(graph.components(|node| node != 1), [Some(0), None, Some(0), Some(3)]);
    }
}
