//! `tidemill infer`: what a spec could say of a topic or a file.

use tidemill_jobs::{
    infer::{infer_file, infer_of_context, infer_topic},
    spec,
};

use super::print;
use crate::{cli::InferArgs, clock::MachineClock, failure::Failure};

pub(super) fn infer(args: &InferArgs) -> Result<(), Failure> {
    let (clock, wait) = (MachineClock::start(), args.wait.get());
    let yaml = match (&args.file, &args.kafka, &args.context, &args.topic) {
        (Some(path), ..) => infer_file(path),
        (None, Some(broker), _, Some(topic)) => infer_topic(std::slice::from_ref(broker), topic, &clock, wait),
        (None, None, Some(context), Some(topic)) => {
            infer_of_context(&spec::load_context(context)?, topic, &clock, wait)
        }
        // The command line holds one of them.
        (None, ..) => return Ok(()),
    };
    print(yaml.map_err(anyhow::Error::from)?.as_bytes())
}
