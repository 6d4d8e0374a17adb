//! What processes have used, from `/proc`: processor time of a process with everything below it, and peak memory.

use std::collections::HashMap;
use std::fs;
use std::ops::Sub;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Linux tells user space ticks of 1/100 s, whatever the kernel's own are.
const TICKS_PER_S: f64 = 100.0;
/// How often a reading is repeated during which a child ended.
const READINGS_MAX: usize = 5;

struct Stat {
    parent: i32,
    /// User and system time of its own.
    own: u64,
    /// The same of children that have ended and were waited for, with theirs.
    ended: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name in brackets may hold spaces and brackets itself.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
        let parent = fields.get(1)?.parse().ok()?;
        Some(Self { parent, own: number(11)? + number(12)?, ended: number(13)? + number(14)? })
    }
}

/// Processor seconds of this process, its descendants, and those of them that have ended.
pub(crate) fn cpu_seconds(root: i32) -> Result<f64> {
    let gone = || format!("process {root} has ended");
    let mut ticks = 0;
    for _ in 0..READINGS_MAX {
        let before = Stat::of(root).with_context(gone)?.ended;
        ticks = tree_ticks(root)?;
        // A child that ended in between could be missing, or counted twice.
        if Stat::of(root).with_context(gone)?.ended == before {
            break;
        }
    }
    Ok(seconds(ticks))
}

fn tree_ticks(root: i32) -> Result<u64> {
    let all = processes()?;
    let mut ticks = 0;
    let mut waiting = vec![root];
    while let Some(pid) = waiting.pop() {
        if let Some(stat) = all.get(&pid) {
            ticks += stat.own + stat.ended;
            waiting.extend(all.iter().filter(|(_, child)| child.parent == pid).map(|(child, _)| *child));
        }
    }
    Ok(ticks)
}

fn processes() -> Result<HashMap<i32, Stat>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir("/proc").context("processor time is read from /proc, which is missing")? {
        // One that ends while it is looked at is passed over.
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(stat) = Stat::of(pid) {
            found.insert(pid, stat);
        }
    }
    Ok(found)
}

/// Processor seconds of the whole machine since its start, with what the hypervisor took.
fn machine_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    Ok(seconds([0, 1, 2, 5, 6, 7].iter().filter_map(|place| fields.get(*place)).sum()))
}

fn seconds(ticks: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "2^52 ticks are more than a million years")]
    let ticks = ticks as f64;
    ticks / TICKS_PER_S
}

/// The most memory that the process ever had resident, in MB of 1,000,000 bytes.
pub(crate) fn peak_mb(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the kernel does not tell VmHWM")?;
    let kib: u32 = line.trim().trim_end_matches("kB").trim().parse().context("VmHWM is not a number")?;
    Ok(f64::from(kib) * 1024.0 / 1e6)
}

/// The processes whose use is told apart.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Meter {
    pub(crate) postgres: i32,
    pub(crate) engine: Option<i32>,
    pub(crate) rabbitmq: Option<i32>,
    pub(crate) sandbox: Option<i32>,
}

/// Processor seconds by component.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CpuSeconds {
    pub(crate) engine: f64,
    pub(crate) postgres: f64,
    pub(crate) rabbitmq: f64,
    pub(crate) sandbox: f64,
    /// This very process: the load generator.
    pub(crate) bench: f64,
    machine: f64,
}

impl Meter {
    pub(crate) fn read(&self) -> Result<CpuSeconds> {
        let of = |pid: Option<i32>| pid.map_or(Ok(0.0), cpu_seconds);
        // Without the programs that this process has started, which are counted by themselves.
        let bench = Stat::of(own_pid()?).map_or(0, |stat| stat.own);
        Ok(CpuSeconds {
            engine: of(self.engine)?,
            postgres: cpu_seconds(self.postgres)?,
            rabbitmq: of(self.rabbitmq)?,
            sandbox: of(self.sandbox)?,
            bench: seconds(bench),
            machine: machine_seconds()?,
        })
    }
}

impl CpuSeconds {
    /// Engine, Postgres, RabbitMQ and sandbox together.
    pub(crate) fn sum(&self) -> f64 {
        self.engine + self.postgres + self.rabbitmq + self.sandbox
    }

    /// What the machine did besides: other people's work, and the kernel's.
    pub(crate) fn others(&self) -> f64 {
        (self.machine - self.sum() - self.bench).max(0.0)
    }
}

/// What a part took of the machine, and what others took meanwhile.
pub(crate) struct Work {
    began: Instant,
    own: f64,
    machine: f64,
}

impl Work {
    pub(crate) fn begin() -> Result<Self> {
        Ok(Self { began: Instant::now(), own: cpu_seconds(own_pid()?)?, machine: machine_seconds()? })
    }

    /// Everything that the bench starts is below it, or was and has ended.
    pub(crate) fn end(self) -> Result<Value> {
        let own = cpu_seconds(own_pid()?)? - self.own;
        let others = (machine_seconds()? - self.machine - own).max(0.0);
        Ok(json!({"seconds": self.began.elapsed().as_secs_f64(), "cpu_s": own, "other_cpu_s": others}))
    }
}

fn own_pid() -> Result<i32> {
    Ok(i32::try_from(std::process::id())?)
}

impl Sub for CpuSeconds {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            engine: self.engine - before.engine,
            postgres: self.postgres - before.postgres,
            rabbitmq: self.rabbitmq - before.rabbitmq,
            sandbox: self.sandbox - before.sandbox,
            bench: self.bench - before.bench,
            machine: self.machine - before.machine,
        }
    }
}
