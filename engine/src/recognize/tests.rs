//! Patterns: what they take, and how many steps they have.

use super::pattern::{Next, Pattern, Program};

fn repeat(pattern: Pattern, least: u32, most: Option<u32>) -> Pattern {
    Pattern::Repeat { pattern: Box::new(pattern), least, most }
}

/// The length of the preferred match of a program over rows that each fit exactly one variable.
fn longest(pattern: &Pattern, rows: &[usize]) -> Option<usize> {
    let program = Program::new(pattern);
    let (mut ways, mut matched) = (vec![], None);
    for next in program.start() {
        match next {
            Next::Take(step) => ways.push(*step),
            Next::Match => matched = Some(0),
        }
    }
    for (at, row) in rows.iter().enumerate() {
        let mut next_ways = vec![];
        'ways: for step in ways {
            if program.variable(step) != *row {
                continue;
            }
            for next in program.behind(step) {
                match next {
                    Next::Take(step) => next_ways.push(*step),
                    Next::Match => {
                        matched = Some(at + 1);
                        break 'ways;
                    }
                }
            }
        }
        ways = next_ways;
    }
    matched
}

#[test]
fn patterns_take_what_they_say() {
    let [a, b, c] = [0, 1, 2].map(Pattern::Variable);
    let sequence =
        Pattern::Sequence(vec![repeat(a.clone(), 1, None), Pattern::Alternatives(vec![b.clone(), c.clone()])]);
    assert_eq!(longest(&sequence, &[0, 0, 2]), Some(3));
    assert_eq!(longest(&sequence, &[0, 1, 1]), Some(2));
    assert_eq!(longest(&sequence, &[1]), None);
    let optional = Pattern::Sequence(vec![repeat(a.clone(), 0, Some(1)), repeat(b.clone(), 1, None)]);
    assert_eq!(longest(&optional, &[1, 1, 0]), Some(2));
    let bounded = repeat(a.clone(), 2, Some(3));
    assert_eq!([1, 2, 3, 4].map(|n| longest(&bounded, &vec![0; n])), [None, Some(2), Some(3), Some(3)]);
    // A loop whose body may be empty ends.
    let nested = repeat(repeat(a.clone(), 0, None), 0, None);
    assert_eq!(longest(&nested, &[0, 0, 0]), Some(3));
    assert_eq!(longest(&repeat(a, 2, None), &[0, 0, 0, 1]), Some(3));
}

#[test]
fn steps_are_counted_without_being_made() {
    let deep = (0..40).fold(Pattern::Variable(0), |p, _| repeat(p, 0, Some(1_000_000)));
    assert_eq!(deep.steps(), usize::MAX);
    let pattern = Pattern::Sequence(vec![repeat(Pattern::Variable(0), 2, Some(4)), Pattern::Variable(1)]);
    assert!(pattern.steps() >= 8, "{}", pattern.steps());
}
