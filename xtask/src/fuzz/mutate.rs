//! Mutations: how an input becomes another one.

use xtask::random::Random;

/// Makes inputs from inputs; the same seed, the same ones.
pub(super) struct Mutator {
    random: Random,
    tokens: &'static [&'static str],
}

impl Mutator {
    pub(super) fn new(seed: u64, tokens: &'static [&'static str]) -> Self {
        Mutator { random: Random(seed), tokens }
    }

    /// A number from 0 to `bound`, exclusive.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound.max(1) as u64) as usize
    }

    /// One of the inputs, changed one to four times.
    pub(super) fn mutate(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut input = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut input, inputs);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = at + self.below((input.len() - at).min(32) + 1);
        match self.below(9) {
            // A bit, or a byte.
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.below(256) as u8,
            // A piece left out, doubled, repeated, or put elsewhere.
            2 => drop(input.drain(at..end)),
            3 => {
                let piece = input[at..end].repeat(1 + self.below(2));
                input.splice(at..at, piece);
            }
            4 => {
                let piece = input[at..end.min(at + 8)].repeat(self.below(300));
                input.splice(at..at, piece);
            }
            5 => {
                let piece: Vec<u8> = input.drain(at..end).collect();
                let to = self.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            // The end cut off, or that of another input.
            6 => input.truncate(at),
            7 => {
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            // A piece of the language.
            _ => {
                let token = self.tokens[self.below(self.tokens.len())];
                let end = if self.below(2) == 0 { at } else { end.min(at + token.len()) };
                input.splice(at..end, token.bytes());
            }
        }
    }
}
