//! `tidemill infer`: what a spec could say of a topic or a file.

use tidemill_jobs::infer::{infer_file, infer_topic};

use super::print;
use crate::{cli::InferArgs, clock::MachineClock, failure::Failure};

pub(super) fn infer(args: &InferArgs) -> Result<(), Failure> {
    let yaml = match (&args.file, &args.kafka, &args.topic) {
        (Some(path), ..) => infer_file(path),
        (None, Some(broker), Some(topic)) => {
            infer_topic(std::slice::from_ref(broker), topic, &MachineClock::start(), args.wait.get())
        }
        // The command line holds one or the other.
        (None, ..) => return Ok(()),
    };
    print(yaml.map_err(anyhow::Error::from)?.as_bytes())
}
