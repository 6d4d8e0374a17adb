use super::*;

const EXECUTIONS: u64 = 20_000;
/// The same inputs in every run of the tests; `make fuzz` is what looks further.
const SEED: u64 = 20_250_212;

#[test]
fn every_target_keeps_its_promises() {
    let broken: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = TARGETS.iter().map(|target| scope.spawn(|| broken_promises(target))).collect();
        runs.into_iter().flat_map(|run| run.join().expect("a panic of a target is a broken promise")).collect()
    });
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Fewer of the dear ones, so that all end together in some seconds.
fn executions(target: &Target) -> u64 {
    EXECUTIONS
        / match target.name {
            "webhook" | "template" | "catalog" => 4,
            "contacts" => 20,
            "config-file" | "config-environment" => 50,
            _ => 1,
        }
}

fn broken_promises(target: &'static Target) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(FINDINGS_FOLDER);
    let mut findings = Findings::new(&folder);
    let mut fuzzer = Fuzzer::new(target, SEED);
    let mut broken = Vec::new();
    for _ in 0..executions(target) {
        let input = fuzzer.next_input();
        if let Some(words) = fuzzer.run(&input)
            && let Some(found) = findings.keep(target.name, &words, &input).expect("a finding can be kept")
        {
            broken.push(found);
        }
    }
    broken
}

/// Fails now and then, in both ways.
static BROKEN: Target = Target {
    name: "broken",
    seeds: || vec![br#"{"entry": [1, 2]}"#.to_vec()],
    check: |input| match input {
        [] => panic!("an empty input"),
        input if input.contains(&0) => Err("a zero".to_owned()),
        input => Ok(input.len().to_string()),
    },
};

#[test]
fn panics_and_broken_promises_are_found_and_kept_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut findings = Findings::new(folder.path());
    let mut fuzzer = Fuzzer::new(&BROKEN, SEED);
    let mut kept = Vec::new();
    for _ in 0..EXECUTIONS {
        let input = fuzzer.next_input();
        if let Some(words) = fuzzer.run(&input)
            && let Some(found) = findings.keep(BROKEN.name, &words, &input).expect("a finding can be kept")
        {
            kept.push((found, input));
        }
    }
    let says = |words: &str| kept.iter().filter(|(found, _)| found.contains(words)).count();
    assert_eq!((says("an empty input"), says("a zero")), (1, 1), "{kept:?}");
    for (found, input) in &kept {
        let file = found.rsplit_once("--replay ").expect("a command").1.trim_end_matches('"');
        assert_eq!(&std::fs::read(file).expect("a kept input"), input);
        assert!(execute(&BROKEN, input).is_err(), "{found}");
    }
    assert_eq!(findings.count(), 2);
}

#[test]
fn a_seed_gives_the_same_inputs_again() {
    let inputs = |seed| {
        let mut fuzzer = Fuzzer::new(&TARGETS[0], seed);
        let mut input = move || {
            let input = fuzzer.next_input();
            fuzzer.run(&input);
            input
        };
        (0..500).map(|_| input()).collect::<Vec<_>>()
    };
    assert_eq!(inputs(SEED), inputs(SEED));
    assert_ne!(inputs(SEED), inputs(SEED + 1));
}

/// What nobody reads cannot be spoilt: the changes must leave enough of an input to be read.
#[test]
fn most_changed_webhooks_are_still_read() {
    let mut fuzzer = Fuzzer::new(&TARGETS[0], SEED);
    let read = |input: &[u8]| infrastructure::whatsapp::webhook::parse(input).is_ok_and(|items| !items.is_empty());
    let count = (0..2_000).filter(|_| read(&fuzzer.next_input())).count();
    assert!((800..1_950).contains(&count), "{count} of 2000 are read");
}
