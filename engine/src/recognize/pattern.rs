//! A pattern over rows as a program: what a match may take next, the preferred first.

/// A pattern of MATCH_RECOGNIZE; variables are numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Pattern {
    /// One row for which a variable's condition holds.
    Variable(usize),
    /// One after the other.
    Sequence(Vec<Pattern>),
    /// One of them, the first that matches.
    Alternatives(Vec<Pattern>),
    /// As often as possible, within bounds.
    Repeat {
        /// What is repeated.
        pattern: Box<Pattern>,
        /// At least so often.
        least: u32,
        /// At most so often; none: without an end.
        most: Option<u32>,
    },
}

/// Steps of a program beyond this are refused.
pub const MAX_STEPS: usize = 10_000;

/// A step of a program.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Takes a row for a variable, then goes on with the next step.
    Take(usize),
    /// Goes on with one of these, the first preferred.
    Either(Vec<usize>),
    Match,
}

/// Where a match goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Takes a row at this step.
    Take(usize),
    /// The match is complete.
    Match,
}

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Program {
    steps: Vec<Step>,
    /// What can follow before the first row, and behind each step that takes one.
    start: Vec<Next>,
    behind: Vec<Vec<Next>>,
}

impl Pattern {
    /// How many steps its program has; saturated.
    #[must_use]
    pub fn steps(&self) -> usize {
        match self {
            Self::Variable(_) => 1,
            Self::Sequence(parts) => parts.iter().fold(0, |n, part| n.saturating_add(part.steps())),
            Self::Alternatives(parts) => {
                parts.iter().fold(1, |n, part| n.saturating_add(part.steps()).saturating_add(1))
            }
            Self::Repeat { pattern, least, most } => {
                let copies = most.unwrap_or(*least).max(*least) as usize + 1;
                pattern.steps().saturating_add(1).saturating_mul(copies)
            }
        }
    }
}

impl Program {
    pub(super) fn new(pattern: &Pattern) -> Self {
        let mut steps = vec![];
        compile(pattern, &mut steps);
        steps.push(Step::Match);
        let mut program = Self { start: vec![], behind: vec![], steps };
        program.start = program.reach(0);
        program.behind = (0..program.steps.len())
            .map(|at| if matches!(program.steps[at], Step::Take(_)) { program.reach(at + 1) } else { vec![] })
            .collect();
        program
    }

    /// What can follow from a step without taking a row, the preferred first. A loop is entered once.
    fn reach(&self, from: usize) -> Vec<Next> {
        let (mut found, mut seen, mut open) = (vec![], vec![false; self.steps.len()], vec![from]);
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            match &self.steps[at] {
                Step::Take(_) => found.push(Next::Take(at)),
                Step::Match => found.push(Next::Match),
                Step::Either(targets) => open.extend(targets.iter().rev()),
            }
        }
        found
    }

    pub(super) fn start(&self) -> &[Next] {
        &self.start
    }

    pub(super) fn behind(&self, step: usize) -> &[Next] {
        &self.behind[step]
    }

    /// The variable for which a step takes a row.
    pub(super) fn variable(&self, step: usize) -> usize {
        match self.steps[step] {
            Step::Take(variable) => variable,
            _ => unreachable!("threads wait at steps that take rows"),
        }
    }
}

fn compile(pattern: &Pattern, steps: &mut Vec<Step>) {
    match pattern {
        Pattern::Variable(variable) => steps.push(Step::Take(*variable)),
        Pattern::Sequence(parts) => parts.iter().for_each(|part| compile(part, steps)),
        Pattern::Alternatives(parts) => {
            let choice = steps.len();
            steps.push(Step::Either(vec![]));
            let (mut begins, mut ends) = (vec![], vec![]);
            for part in parts {
                begins.push(steps.len());
                compile(part, steps);
                ends.push(steps.len());
                steps.push(Step::Either(vec![]));
            }
            let behind = steps.len();
            steps[choice] = Step::Either(begins);
            for end in ends {
                steps[end] = Step::Either(vec![behind]);
            }
        }
        Pattern::Repeat { pattern, least, most } => {
            for _ in 0..*least {
                compile(pattern, steps);
            }
            match most {
                None => {
                    let choice = steps.len();
                    steps.push(Step::Either(vec![]));
                    compile(pattern, steps);
                    steps.push(Step::Either(vec![choice]));
                    steps[choice] = Step::Either(vec![choice + 1, steps.len()]);
                }
                Some(most) => {
                    let mut choices = vec![];
                    for _ in *least..*most {
                        choices.push(steps.len());
                        steps.push(Step::Either(vec![]));
                        compile(pattern, steps);
                    }
                    for choice in choices {
                        steps[choice] = Step::Either(vec![choice + 1, steps.len()]);
                    }
                }
            }
        }
    }
}
