//! `tidemill schema`.

use tidemill_jobs::spec;

use super::print;
use crate::failure::Failure;

pub(super) fn schema() -> Result<(), Failure> {
    print(spec::json_schema().as_bytes())
}
