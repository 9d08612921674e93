//! What is wrong with an input: the class, the place, the evidence and what to do.

use std::fmt;

/// A place in a text. A line that holds a secret is stored without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// How many characters are meant.
    pub length: usize,
    /// The line's text.
    pub text: String,
}

/// One thing that is wrong, or doubtful, with an input. It holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The stable failure class, like `wg.key.format`.
    pub class: &'static str,
    /// One sentence without a full stop.
    pub summary: String,
    /// The observations.
    pub evidence: Vec<String>,
    /// What to do next, the likeliest first.
    pub fix: Vec<String>,
    /// Where, if it is at one place of a text.
    pub place: Option<Place>,
    /// The file of the place, where it is not the one that was asked about.
    pub file: Option<String>,
}

impl Problem {
    /// A problem without evidence, fix and place.
    pub fn new(class: &'static str, summary: impl Into<String>) -> Self {
        Self {
            class,
            summary: summary.into(),
            evidence: Vec::new(),
            fix: Vec::new(),
            place: None,
            file: None,
        }
    }

    /// Adds an observation.
    pub fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    /// Adds an advice.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix.push(fix.into());
        self
    }

    /// Adds the place.
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            if let Some(file) = &self.file {
                write!(f, "{file}:")?;
            }
            write!(f, "{}:{}: ", place.line, place.column)?;
        }
        write!(f, "{} [{}]", self.summary, self.class)
    }
}

impl std::error::Error for Problem {}

/// Everything that is wrong with an input, in the order of the text; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}
