//! The bitwise operators: of two bits a bit, else of bigints.

use arrow::{array::ArrayRef, datatypes::DataType};
use datafusion_common::Result;

use super::{Arg::Bits, Args, Function, Returns::First, function};

pub(super) static FUNCTIONS: &[Function] = &[
    function("bitand", &[Bits, Bits], First, bit_and)
        .doc_of(
            "a & b",
            "the bits that both have; of two bits a bit, else of bigints",
            &[("170 & 75", "10"), ("170 & 75.0", "10")],
        )
        .page("bitwise-and-azure-stream-analytics"),
    function("bitor", &[Bits, Bits], First, bit_or)
        .doc_of(
            "a | b",
            "the bits that either has",
            &[("170 | 75", "235"), ("CAST(0 AS bit) | CAST(1 AS bit)", "true")],
        )
        .page("bitwise-or-azure-stream-analytics"),
    function("bitxor", &[Bits, Bits], First, bit_xor)
        .doc_of("a ^ b", "the bits that one of them has", &[("170 ^ 75", "225")])
        .page("bitwise-xor-azure-stream-analytics"),
    function("bitnot", &[Bits], First, bit_not)
        .doc_of("~a", "the bits that a has not", &[("~170", "-171"), ("~CAST(1 AS bit)", "false")])
        .page("bitwise-not-azure-stream-analytics"),
];

fn bits(args: &Args, bit: impl Fn(bool, bool) -> bool, int: impl Fn(i64, i64) -> i64) -> Result<ArrayRef> {
    if *args.data_type(0) == DataType::Boolean {
        let (a, b) = (args.bit(0), args.bit(1));
        return args.to_bits(|i| Ok(a(i).zip(b(i)).map(|(a, b)| bit(a, b))));
    }
    let (a, b) = (args.int(0), args.int(1));
    args.to_ints(|i| Ok(a.get(i).zip(b.get(i)).map(|(a, b)| int(a, b))))
}

fn bit_and(args: &Args) -> Result<ArrayRef> {
    bits(args, |a, b| a & b, |a, b| a & b)
}

fn bit_or(args: &Args) -> Result<ArrayRef> {
    bits(args, |a, b| a | b, |a, b| a | b)
}

fn bit_xor(args: &Args) -> Result<ArrayRef> {
    bits(args, |a, b| a ^ b, |a, b| a ^ b)
}

fn bit_not(args: &Args) -> Result<ArrayRef> {
    if *args.data_type(0) == DataType::Boolean {
        let a = args.bit(0);
        return args.to_bits(|i| Ok(a(i).map(|a| !a)));
    }
    let a = args.int(0);
    args.to_ints(|i| Ok(a.get(i).map(|a| !a)))
}
