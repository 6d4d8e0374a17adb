//! `make fuzz [TIME=SECONDS]`: feeds everything that reads foreign input with inputs that are nearly right, and checks
//! what must hold for each of them.
//!
//! The inputs are the payloads of `tests/data` with a few parts changed, cut, repeated or moved. A run is told by its seed:
//! with the same seed every target gets the same inputs in the same order. An input that breaks a promise is kept in
//! `target/fuzz`, with the command that shows it again.

mod dice;
mod findings;
mod fuzzer;
mod mutate;
mod seeds;
mod targets;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::findings::Findings;
use crate::fuzzer::{Fuzzer, execute, last_panic, remember_panics};
use crate::targets::{TARGETS, Target};

const USAGE: &str =
    "usage: fuzz [--time SECONDS] [--seed NUMBER] [--target NAME]... | fuzz --target NAME --replay FILE";
const FINDINGS_FOLDER: &str = "target/fuzz";
const TIME_DEFAULT: Duration = Duration::from_secs(60);
/// How long each target is run before the next one has its turn.
const TURN: Duration = Duration::from_millis(100);
const PROGRESS: Duration = Duration::from_secs(2);
/// An input that takes longer has found an endless loop.
const EXECUTION_MAX: Duration = Duration::from_secs(20);

struct Options {
    time: Duration,
    seed: Option<u64>,
    targets: Vec<&'static Target>,
    replay: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(wrong) => {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("fuzz: {wrong}\n{USAGE}\ntargets: {}", names.join(", "));
            return ExitCode::from(2);
        }
    };
    match &options.replay {
        Some(file) => replay(&options.targets, file),
        None => fuzz(&options),
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { time: TIME_DEFAULT, seed: None, targets: Vec::new(), replay: None };
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} has no value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name} is {value:?}, expected a whole number"));
        match name.as_str() {
            "--time" => options.time = Duration::from_secs(number()?),
            "--seed" => options.seed = Some(number()?),
            "--target" => {
                options.targets.push(targets::find(&value).ok_or_else(|| format!("there is no target {value:?}"))?);
            }
            "--replay" => options.replay = Some(PathBuf::from(value)),
            _ => return Err(format!("there is no option {name}")),
        }
    }
    if options.replay.is_some() && options.targets.len() != 1 {
        return Err("--replay needs one --target".to_owned());
    }
    if options.targets.is_empty() {
        options.targets = TARGETS.iter().collect();
    }
    Ok(options)
}

fn replay(targets: &[&'static Target], file: &Path) -> ExitCode {
    let input = match std::fs::read(file) {
        Ok(input) => input,
        Err(error) => {
            eprintln!("fuzz: cannot read {}: {error}", file.display());
            return ExitCode::from(2);
        }
    };
    for target in targets {
        match execute(target, &input) {
            Ok(words) => eprintln!("fuzz: {} keeps its promises: {words}", target.name),
            Err(broken) => {
                eprintln!("fuzz: {} breaks a promise: {broken}", target.name);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// What the thread that runs the inputs and the one that watches it share.
struct State {
    current: Option<(&'static Target, Vec<u8>, Instant)>,
    executions: BTreeMap<&'static str, u64>,
    findings: Findings,
}

type Shared = Arc<Mutex<State>>;

fn fuzz(options: &Options) -> ExitCode {
    let seed = options.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    eprintln!("fuzz: {} targets, {} s, --seed {seed}", options.targets.len(), options.time.as_secs());
    remember_panics();
    let state =
        State { current: None, executions: BTreeMap::new(), findings: Findings::new(Path::new(FINDINGS_FOLDER)) };
    let state = Arc::new(Mutex::new(state));
    let (ended, end) = channel::<()>();
    let (targets, time, shared) = (options.targets.clone(), options.time, Arc::clone(&state));
    let start = Instant::now();
    let worker = std::thread::spawn(move || {
        take_turns(&targets, seed, time, &shared);
        drop(ended);
    });
    while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(PROGRESS) {
        let mut state = lock(&state);
        let total: u64 = state.executions.values().sum();
        let at = state.current.as_ref().map_or("", |(target, ..)| target.name);
        let seconds = start.elapsed().as_secs_f64();
        eprintln!(
            "fuzz: {seconds:.0} s, {total} executions, {:.0}/s, {} findings, at {at}",
            total as f64 / seconds,
            state.findings.count()
        );
        if let Some((target, input, since)) = state.current.take_if(|(.., since)| since.elapsed() > EXECUTION_MAX) {
            let broken = format!("it has not ended after {} s", since.elapsed().as_secs());
            keep(&mut state.findings, target, &input, &broken);
            // The endless loop ends with the process.
            return ExitCode::FAILURE;
        }
    }
    if worker.join().is_err() {
        eprintln!("fuzz: the fuzzer itself broke off: {}", last_panic().unwrap_or_default());
        return ExitCode::from(2);
    }
    let state = lock(&state);
    for (target, executions) in &state.executions {
        eprintln!("fuzz: {target:<20} {executions:>10} executions");
    }
    eprintln!("fuzz: {} findings, --seed {seed}", state.findings.count());
    if state.findings.count() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn take_turns(targets: &[&'static Target], seed: u64, time: Duration, shared: &Shared) {
    let mut fuzzers: Vec<Fuzzer> = targets.iter().map(|target| Fuzzer::new(target, seed)).collect();
    let start = Instant::now();
    while start.elapsed() < time {
        for fuzzer in &mut fuzzers {
            let turn = Instant::now();
            while turn.elapsed() < TURN {
                let input = fuzzer.next_input();
                lock(shared).current = Some((fuzzer.target, input.clone(), Instant::now()));
                let broken = fuzzer.run(&input);
                let mut state = lock(shared);
                *state.executions.entry(fuzzer.target.name).or_default() += 1;
                if let Some(broken) = broken {
                    keep(&mut state.findings, fuzzer.target, &input, &broken);
                }
            }
        }
    }
}

/// A panic while it is held is the fuzzer's own, and told when its thread ends.
fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(findings: &mut Findings, target: &Target, input: &[u8], broken: &str) {
    match findings.keep(target.name, broken, input) {
        Ok(Some(found)) => eprintln!("fuzz: {found}"),
        Ok(None) => {}
        Err(error) => eprintln!("fuzz: a finding of {} cannot be kept: {error}: {broken}", target.name),
    }
}
