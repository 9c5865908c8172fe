//! What a run leaves behind: a journal of what was done, a count of it, and, when it failed, everything else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::support::cluster::Cluster;
use crate::support::instance::{Deployment, Instance};
use crate::support::kafka::Message;

/// Notes down what is done, from all lanes.
pub(crate) struct Journal {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    lines: Vec<String>,
    counts: BTreeMap<&'static str, usize>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), inner: Mutex::default() }
    }

    /// Something was done to somebody.
    pub(crate) fn note(&self, kind: &'static str, what: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        *inner.counts.entry(kind).or_default() += 1;
        let now = humantime::format_rfc3339_millis(std::time::SystemTime::now());
        let line = format!("{now} {:8.1}s {kind}: {what}", self.began.elapsed().as_secs_f64());
        inner.lines.push(line);
    }

    /// What was counted so far, in one line.
    pub(crate) fn summary(&self) -> String {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
    }

    fn text(&self) -> String {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).lines.join("\n")
    }
}

/// What every thread of an instance is at, where gdb is installed: a worker that stands still says so in no log.
pub(crate) fn stacks(seed: u64, instance: &Instance) {
    let Some(pid) = instance.pid() else { return };
    let folder = folder(seed);
    let Ok(file) = File::create(folder.join(format!("{}.stacks", instance.id()))) else { return };
    Command::new("gdb")
        .args(["-batch", "-ex", "thread apply all bt", "-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(Stdio::null())
        .status()
        .ok();
}

fn folder(seed: u64) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ebbtide-chaos-{seed}"));
    fs::create_dir_all(&folder).expect("a folder for the evidence");
    folder
}

/// Copies and dumps all there is into a folder, and gives it. What cannot be had is left out: the failure comes first.
pub(crate) fn keep(
    seed: u64,
    journal: &Journal,
    cluster: &Cluster,
    deployment: &Deployment,
    folders: &[PathBuf],
) -> PathBuf {
    let folder = folder(seed);
    fs::write(folder.join("journal"), journal.text()).ok();
    for instance in folders {
        copy(instance, &folder);
    }
    for place in 0..cluster.size() {
        let node = cluster.node(place);
        let to = folder.join(format!("node-{}", place + 1));
        fs::create_dir_all(&to).ok();
        for file in ["broker.log", "server.properties"] {
            copy(&node.folder.join(file), &to);
        }
    }
    let changelog = format!("{}.changelog", deployment.name);
    let topics = [deployment.events(), deployment.transitions(), deployment.states(), changelog];
    for topic in topics.iter().filter(|topic| cluster.broker.partitions(topic).is_some()) {
        // A broker that is not there any more must not hide the failure itself.
        let dumped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            dump(&folder.join(format!("{topic}.jsonl")), &cluster.broker.read_all(topic))
        }));
        if !matches!(dumped, Ok(Ok(()))) {
            eprintln!("{topic} could not be dumped");
        }
    }
    folder
}

fn copy(from: &Path, to: &Path) {
    Command::new("cp").arg("-a").arg(from).arg(to).status().ok();
}

fn dump(path: &Path, messages: &[Message]) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for message in messages {
        let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| readable(bytes));
        let line = serde_json::json!({
            "partition": message.partition,
            "offset": message.offset,
            "key": text(&message.key),
            "value": text(&message.value),
        });
        writeln!(file, "{line}")?;
    }
    file.flush()
}

/// As text where it is text, in hexadecimal where it is not.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => text.to_owned(),
        _ => bytes.iter().fold("0x".to_owned(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("text");
            text
        }),
    }
}
