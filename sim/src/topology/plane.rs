//! Wireless meshes: points in a square, each linked to all within reach.

use rand_chacha::ChaCha8Rng;

use crate::link::unit;

/// Points whose cell of the square is known, so that only near ones are compared.
struct Plane {
    places: Vec<[f32; 2]>,
    reach: f32,
    width: usize,
    cells: Vec<Vec<u32>>,
}

impl Plane {
    fn new(places: Vec<[f32; 2]>, reach: f32) -> Self {
        let width = ((1.0 / reach) as usize).clamp(1, 4096);
        let mut plane = Self { places, reach, width, cells: vec![Vec::new(); width * width] };
        for node in 0..plane.places.len() {
            let cell = plane.cell(plane.places[node]);
            plane.cells[cell].push(node as u32);
        }
        plane
    }

    fn column(&self, at: f32) -> usize {
        ((at * self.width as f32) as usize).min(self.width - 1)
    }

    fn cell(&self, [x, y]: [f32; 2]) -> usize {
        self.column(y) * self.width + self.column(x)
    }

    /// All other nodes within reach, in order.
    fn near(&self, node: usize) -> Vec<u32> {
        let [x, y] = self.places[node];
        let (column, row) = (self.column(x), self.column(y));
        let mut near = Vec::new();
        for row in row.saturating_sub(1)..=(row + 1).min(self.width - 1) {
            for column in column.saturating_sub(1)..=(column + 1).min(self.width - 1) {
                near.extend(self.cells[row * self.width + column].iter().copied().filter(|&other| {
                    let [u, v] = self.places[other as usize];
                    other as usize != node && (u - x).powi(2) + (v - y).powi(2) <= self.reach.powi(2)
                }));
            }
        }
        near.sort_unstable();
        near
    }

    fn move_to(&mut self, node: usize, place: [f32; 2]) {
        let (old, new) = (self.cell(self.places[node]), self.cell(place));
        self.cells[old].retain(|&other| other as usize != node);
        self.cells[new].push(node as u32);
        self.places[node] = place;
    }

    fn degree(&self) -> f64 {
        let links: usize = (0..self.places.len()).map(|node| self.near(node).len()).sum();
        links as f64 / self.places.len().max(1) as f64
    }
}

/// Links and places of a connected mesh of that mean degree. Whoever is out of reach of the largest part is put elsewhere
/// until nobody is.
pub(super) fn unit_disk(
    nodes: usize,
    degree: f64,
    rng: &mut ChaCha8Rng,
) -> (Vec<(usize, usize)>, Vec<[f32; 2]>) {
    let mut draw = || [unit(rng) as f32, unit(rng) as f32];
    let places: Vec<[f32; 2]> = (0..nodes).map(|_| draw()).collect();
    if nodes < 2 {
        return (Vec::new(), places);
    }
    let mut reach = (degree / (std::f64::consts::PI * nodes as f64)).sqrt().min(1.5);
    // Near the border the disk is cut: measure and correct.
    for _ in 0..4 {
        let found = Plane::new(places.clone(), reach as f32).degree();
        reach = (reach * (degree.min(nodes as f64 - 1.0) / found.max(0.5)).sqrt()).min(1.5);
    }
    let mut plane = Plane::new(places, reach as f32);
    loop {
        let lost = outside(&plane);
        if lost.is_empty() {
            break;
        }
        for node in lost {
            let place = draw();
            plane.move_to(node, place);
        }
    }
    let mut links = Vec::new();
    for node in 0..nodes {
        links.extend(plane.near(node).into_iter().map(|other| (node, other as usize)).filter(|(a, b)| a < b));
    }
    (links, plane.places)
}

/// Nodes outside of the largest part.
fn outside(plane: &Plane) -> Vec<usize> {
    let nodes = plane.places.len();
    let mut part = vec![usize::MAX; nodes];
    let mut sizes = Vec::new();
    for start in 0..nodes {
        if part[start] != usize::MAX {
            continue;
        }
        let number = sizes.len();
        part[start] = number;
        let (mut open, mut size) = (vec![start], 0);
        while let Some(node) = open.pop() {
            size += 1;
            for next in plane.near(node) {
                if part[next as usize] == usize::MAX {
                    part[next as usize] = number;
                    open.push(next as usize);
                }
            }
        }
        sizes.push(size);
    }
    let largest = (0..sizes.len()).max_by_key(|&number| sizes[number]).unwrap_or_default();
    (0..nodes).filter(|&node| part[node] != largest).collect()
}
