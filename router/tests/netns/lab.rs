//! Namespaces, cables and node processes of one test; all gone when the `Lab` is dropped, also by a panic.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a question to a node may take.
const ANSWER: Duration = Duration::from_secs(20);

/// Namespaces named `mg-<pid>-<test>-<n>`.
pub(crate) struct Lab {
    prefix: String,
    namespaces: Vec<String>,
    cables: usize,
}

/// A node in a process of its own.
pub(crate) struct Process {
    child: Child,
    answers: Receiver<String>,
    pub(crate) id: String,
    pub(crate) address: String,
}

impl Lab {
    /// `None` (and a word on why) where namespaces cannot be made.
    pub(crate) fn new(test: &str, nodes: usize) -> Option<Self> {
        sweep();
        let prefix = format!("mg-{}-{test}", std::process::id());
        let mut lab = Self { prefix, namespaces: Vec::new(), cables: 0 };
        let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n");
        if !root || !run("ip", &["netns", "list"]) {
            eprintln!("SKIPPED: {test} needs root and iproute2 for network namespaces");
            return None;
        }
        for n in 0..nodes {
            lab.add(n);
        }
        Some(lab)
    }

    fn add(&mut self, n: usize) {
        let name = format!("{}-{n}", self.prefix);
        assert!(run("ip", &["netns", "add", &name]), "cannot make namespace {name}");
        self.namespaces.push(name);
        self.exec(n, "ip link set lo up");
        // Addresses are usable at once, as on a host that has been up for two seconds.
        self.exec(n, "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0");
    }

    /// Runs a command line in a namespace.
    pub(crate) fn exec(&self, n: usize, line: &str) {
        assert!(self.try_exec(n, line), "failed in namespace {n}: {line}");
    }

    pub(crate) fn try_exec(&self, n: usize, line: &str) -> bool {
        let mut args = vec!["netns", "exec", &self.namespaces[n]];
        args.extend(line.split(' '));
        run("ip", &args)
    }

    /// A cable between two: interfaces `e<cable>` with 10.0.<cable>.1 and .2.
    pub(crate) fn cable(&mut self, a: usize, b: usize) -> String {
        let name = format!("e{}", self.cables);
        let (ns_a, ns_b) = (&self.namespaces[a], &self.namespaces[b]);
        let line = format!("link add {name} netns {ns_a} type veth peer name {name} netns {ns_b}");
        assert!(run("ip", &line.split(' ').collect::<Vec<_>>()), "cannot make a cable");
        for (n, last) in [(a, 1), (b, 2)] {
            self.exec(n, &format!("ip addr add 10.0.{}.{last}/24 dev {name}", self.cables));
            self.exec(n, &format!("ip link set {name} up"));
        }
        self.cables += 1;
        name
    }

    /// A switch in namespace `at` that all of `ports` are plugged into by their interface `lan`.
    pub(crate) fn switch(&self, at: usize, ports: std::ops::Range<usize>) {
        self.exec(at, "ip link add br0 type bridge mcast_snooping 0");
        self.exec(at, "ip link set br0 up");
        for port in ports {
            self.plug(at, port);
        }
    }

    pub(crate) fn plug(&self, at: usize, port: usize) {
        let (ns_at, ns_port) = (&self.namespaces[at], &self.namespaces[port]);
        let line = format!("link add p{port} netns {ns_at} type veth peer name lan netns {ns_port}");
        assert!(run("ip", &line.split(' ').collect::<Vec<_>>()), "cannot plug in");
        self.exec(at, &format!("ip link set p{port} master br0 up"));
        self.exec(port, "ip link set lan up");
    }

    /// Runs a lying peer to its end.
    pub(crate) fn spoof(&self, n: usize, address: &str, key: &str) -> bool {
        Command::new("ip")
            .args(["netns", "exec", &self.namespaces[n]])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "spoof_process", "--nocapture"])
            .env("MG_SPOOF", format!("{address} {key}"))
            .status()
            .is_ok_and(|s| s.success())
    }

    /// Starts a peer that passes nothing on; it is gone with what is returned.
    pub(crate) fn dropper(&self, n: usize, addresses: &str) -> Process {
        let child = Command::new("ip")
            .args(["netns", "exec", &self.namespaces[n]])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "dropper_process", "--nocapture"])
            .env("MG_DROPPER", addresses)
            .spawn()
            .unwrap();
        Process { child, answers: channel().1, id: String::new(), address: String::new() }
    }

    /// Starts a node: `key=value` words, see `node.rs`.
    pub(crate) fn node(&self, n: usize, config: &str) -> Process {
        let exe = std::env::current_exe().unwrap();
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.namespaces[n]])
            .arg(exe)
            .args(["--exact", "node_process", "--nocapture", "--test-threads", "1"])
            .env("MG_NODE", config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let (tell, answers) = channel();
        thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                // The test runner shares the line with the first answer.
                if let Some((_, answer)) = line.split_once('@')
                    && tell.send(answer.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        let mut process = Process { child, answers, id: String::new(), address: String::new() };
        let started = process.answer();
        let (id, address) = started.split_once(' ').unwrap_or_else(|| panic!("node {n}: {started}"));
        (process.id, process.address) = (id.to_owned(), address.to_owned());
        process
    }
}

impl Process {
    /// Asks the node and returns its answer.
    pub(crate) fn ask(&mut self, question: &str) -> String {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{question}\n").as_bytes()).unwrap();
        self.answer()
    }

    fn answer(&self) -> String {
        self.answers.recv_timeout(ANSWER).expect("a node answers")
    }

    /// Asks until the answer pleases.
    pub(crate) fn until(
        &mut self,
        question: &str,
        within: Duration,
        pleases: impl Fn(&str) -> bool,
    ) -> Duration {
        let start = Instant::now();
        loop {
            let answer = self.ask(question);
            if pleases(&answer) {
                return start.elapsed();
            }
            assert!(start.elapsed() < within, "not within {within:?}: `{question}` says `{answer}`");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn number(&mut self, question: &str) -> u64 {
        let answer = self.ask(question);
        answer.parse().unwrap_or_else(|_| panic!("`{question}` says `{answer}`"))
    }

    /// As `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.namespaces {
            run("ip", &["netns", "del", name]);
        }
    }
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Removes what a test run that was killed has left.
fn sweep() {
    let Ok(listed) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let pid = name.strip_prefix("mg-").and_then(|rest| rest.split('-').next());
        if let Some(pid) = pid.and_then(|p| p.parse::<u32>().ok())
            && !std::path::Path::new(&format!("/proc/{pid}")).exists()
        {
            run("ip", &["netns", "del", name]);
        }
    }
}
