//! Makes inputs for one target and has them checked.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use crate::dice::Dice;
use crate::mutate::mutated;
use crate::seeds::Seed;
use crate::targets::Target;

/// Inputs that became seeds of a target.
const FOUND_SEEDS_MAX: usize = 1_000;
/// Longer ones do not become seeds: they would grow from one to the next, and long inputs are slow.
const FOUND_SEED_BYTES_MAX: usize = 4_096;

pub(crate) struct Fuzzer {
    pub(crate) target: &'static Target,
    dice: Dice,
    seeds: Vec<Seed>,
    /// How many of the seeds have been run as they are.
    begun: usize,
    found_max: usize,
    words: HashSet<String>,
}

impl Fuzzer {
    pub(crate) fn new(target: &'static Target, seed: u64) -> Self {
        let seeds: Vec<Seed> = (target.seeds)().into_iter().map(Seed::new).collect();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        let found_max = seeds.len() + FOUND_SEEDS_MAX;
        Self { target, dice: Dice::of(seed, target.name), seeds, begun: 0, found_max, words: HashSet::new() }
    }

    /// The seeds as they are, then changed.
    pub(crate) fn next_input(&mut self) -> Vec<u8> {
        match self.seeds.get(self.begun) {
            Some(seed) => {
                self.begun += 1;
                seed.bytes()
            }
            None => mutated(&mut self.dice, &self.seeds),
        }
    }

    /// Which promise the input breaks, if any.
    pub(crate) fn run(&mut self, input: &[u8]) -> Option<String> {
        match execute(self.target, input) {
            Ok(words) => {
                let has_room = self.seeds.len() < self.found_max && input.len() <= FOUND_SEED_BYTES_MAX;
                if has_room && self.words.insert(words) {
                    self.seeds.push(Seed::new(input.to_vec()));
                    self.begun += 1;
                }
                None
            }
            Err(broken) => Some(broken),
        }
    }
}

/// Where and why the last panic was, as the hook of `remember_panics` has seen it.
static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Panics are findings; printing each as it comes would hide the progress.
pub(crate) fn remember_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if let Ok(mut last) = LAST_PANIC.lock() {
            *last = Some(panic.to_string());
        }
    }));
}

pub(crate) fn last_panic() -> Option<String> {
    LAST_PANIC.lock().ok().and_then(|mut last| last.take())
}

/// A panic is a broken promise like others.
pub(crate) fn execute(target: &Target, input: &[u8]) -> Result<String, String> {
    catch_unwind(AssertUnwindSafe(|| (target.check)(input))).unwrap_or_else(|payload| {
        let seen = last_panic();
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(seen.unwrap_or_else(|| format!("panicked: {text}")))
    })
}
