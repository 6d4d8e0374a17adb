//! Texts with variables in them.

use std::collections::BTreeMap;
use std::fmt;

use super::TemplateError;

/// A variable as it stands in the text. Numbers sort by value, so that the tenth comes after the ninth.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Variable {
    Number(u32),
    Name(String),
}

impl Variable {
    fn parse(name: &str) -> Option<Self> {
        if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
            return name.parse().ok().filter(|number: &u32| number.to_string() == name).map(Self::Number);
        }
        let is_name = name.bytes().any(|byte| byte.is_ascii_lowercase())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        is_name.then(|| Self::Name(name.to_owned()))
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, Self::Number(_))
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Literal(String),
    Variable(Variable),
}

/// A text in pieces.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Text(Vec<Piece>);

impl Text {
    pub(super) fn parse(part: &str, text: &str) -> Result<Self, TemplateError> {
        let malformed = || TemplateError::MalformedBraces { part: part.to_owned() };
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((literal, tail)) = rest.split_once("{{") {
            let (name, tail) = tail.split_once("}}").ok_or_else(malformed)?;
            pieces.push(Piece::Literal(literal.to_owned()));
            pieces.push(Piece::Variable(Variable::parse(name).ok_or_else(malformed)?));
            rest = tail;
        }
        pieces.push(Piece::Literal(rest.to_owned()));
        if pieces.iter().any(|piece| matches!(piece, Piece::Literal(literal) if literal.contains("}}"))) {
            return Err(malformed());
        }
        let text = Self(pieces);
        text.check_numbers(part)?;
        Ok(text)
    }

    fn check_numbers(&self, part: &str) -> Result<(), TemplateError> {
        let variables = self.variables();
        if variables.iter().any(Variable::is_number) && !variables.iter().all(Variable::is_number) {
            return Err(TemplateError::MixedVariables);
        }
        let mut numbers: Vec<u32> = variables
            .iter()
            .filter_map(|v| if let Variable::Number(number) = v { Some(*number) } else { None })
            .collect();
        numbers.sort_unstable();
        match (1..).zip(numbers).find(|(expected, number)| expected != number) {
            Some((missing, _)) => Err(TemplateError::NumberMissing { part: part.to_owned(), missing }),
            None => Ok(()),
        }
    }

    pub(super) fn with_one_variable_at_most(self, part: &str) -> Result<Self, TemplateError> {
        if self.0.iter().filter(|piece| matches!(piece, Piece::Variable(_))).count() > 1 {
            return Err(TemplateError::TooManyVariables { part: part.to_owned() });
        }
        Ok(self)
    }

    pub(super) fn has_variables(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Variable(_)))
    }

    /// Each variable once, in order of first appearance.
    pub(super) fn variables(&self) -> Vec<Variable> {
        let mut variables: Vec<Variable> = Vec::new();
        for piece in &self.0 {
            if let Piece::Variable(variable) = piece
                && !variables.contains(variable)
            {
                variables.push(variable.clone());
            }
        }
        variables
    }

    /// The values are those of the variables with this prefix. A variable without a value stays as it is written.
    pub(super) fn filled(&self, prefix: &str, values: &BTreeMap<String, String>) -> String {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Literal(literal) => literal.clone(),
                Piece::Variable(variable) => {
                    let value = values.get(&format!("{prefix}{variable}")).cloned();
                    value.unwrap_or_else(|| format!("{{{{{variable}}}}}"))
                }
            })
            .collect()
    }
}
