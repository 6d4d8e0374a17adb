//! Running a program to its end, with its words in the error.

use std::process::Command;
use std::time::{Duration, Instant};

use super::{PrivateServerError, Result};

const OUTPUT_BYTES_MAX: usize = 4_000;
const POLL: Duration = Duration::from_millis(25);

/// Runs the program; what it printed is the answer, or part of the error.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(PrivateServerError::io(format!("run {program}")))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let said = format!("{}{stdout}", String::from_utf8_lossy(&output.stderr));
    Err(PrivateServerError::Failed {
        program,
        status: output.status.to_string(),
        output: end_of(said.trim(), OUTPUT_BYTES_MAX).to_owned(),
    })
}

/// Asks again and again until `probe` answers.
pub(super) fn poll<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        if started.elapsed() >= limit {
            return Err(PrivateServerError::TimedOut { what: what.to_owned(), limit });
        }
        std::thread::sleep(POLL);
    }
}

fn end_of(text: &str, bytes_max: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes_max);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_the_words_of_the_program() {
        let error = run(Command::new("sh").args(["-c", "echo out; echo why >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("why") && text.contains("out") && text.contains('3'), "{text}");
    }

    #[test]
    fn the_end_of_a_text_starts_at_a_character() {
        assert_eq!(end_of("aéb", 2), "b");
        assert_eq!(end_of("ab", 9), "ab");
    }
}
