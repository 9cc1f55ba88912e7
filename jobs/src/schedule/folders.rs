//! Where the files of a range are, of one output: written aside, then seen all at once.
//!
//! Files are written into a hidden folder of this run and come to be seen by a rename of the folder, so that a range has all of its files or none.
//! The folder is named by the range's begin, `range=<begin>` where the files in it are partitioned as Hive does. Once it is seen it stays:
//! another run of the range has the same rows, and one that was frozen while another took its place must not take those away. For the same
//! reason the hidden folder of a run is given another name before it is removed: a run that still lives does not publish half of it then,
//! but fails.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use arrow::datatypes::Schema;
use chrono::DateTime;
use tidemill_connectors::files::Layout;

use super::advance::Range;
use crate::{run::RunError, spec::FileOutput};

/// What the hidden folders of runs end with.
const PART: &str = ".part";
/// The same, of those that are being removed.
const GONE: &str = ".gone";

/// The names of what is around the partitions of a layout: the range, and whether its rows are late.
const AROUND: [&str; 2] = ["range", "late"];

/// Whether the folders around partitions can be told from those of the layout and from the columns of the files.
///
/// # Errors
/// A column that has the name of one of them, which readers would take for it.
pub(crate) fn check_names(layout: &Layout, schema: &Schema) -> Result<(), String> {
    let taken = |name: &&&str| schema.fields().iter().any(|field| field.name().eq_ignore_ascii_case(name));
    match AROUND.iter().find(taken).filter(|_| !layout.partition_by.is_empty()) {
        Some(name) => {
            Err(format!("`partition_by`: column `{name}` has the name of the folders around it; give it another"))
        }
        None => Ok(()),
    }
}

/// Of one range, one output and one run.
#[derive(Debug)]
pub(super) struct Folders {
    aside: PathBuf,
    seen: PathBuf,
    is_partitioned: bool,
}

impl Folders {
    /// Makes the one that `run` writes. Those that dead runs of the range have left are removed; a run that was not dead fails, and has a
    /// successor.
    pub(super) fn prepare(file: &FileOutput, range: Range, run: &str) -> Result<Self, RunError> {
        let begin = DateTime::from_timestamp_micros(range.from.0).unwrap_or_default();
        let name = begin.format("%Y%m%dT%H%M%SZ").to_string();
        for entry in fs::read_dir(&file.path).into_iter().flatten().flatten() {
            let left = entry.file_name();
            let left = left.to_string_lossy();
            match left.strip_prefix(&format!(".{name}.")) {
                Some(of_run) if of_run.ends_with(PART) => discard(&entry.path())?,
                Some(of_run) if of_run.ends_with(GONE) => remove(&entry.path())?,
                _ => {}
            }
        }
        let is_partitioned = !file.layout.partition_by.is_empty();
        let aside = file.path.join(format!(".{name}.{run}{PART}"));
        let seen = file.path.join(if is_partitioned { format!("{}={name}", AROUND[0]) } else { name });
        fs::create_dir_all(&aside).map_err(|error| failure(&aside, &error))?;
        Ok(Self { aside, seen, is_partitioned })
    }

    /// Where this run writes what is in time, or late; readers of partitions want every folder to tell a column.
    pub(super) fn written(&self, late: bool) -> PathBuf {
        match (self.is_partitioned, late) {
            (false, false) => self.aside.clone(),
            (false, true) => self.aside.join("late"),
            (true, late) => self.aside.join(format!("{}={late}", AROUND[1])),
        }
    }

    /// Lets the files be seen, unless those of another run of the range are.
    pub(super) fn publish(&self) -> Result<(), RunError> {
        publish(&self.aside, &self.seen)
    }

    /// Removes what this run has written, in one step for whoever writes into it.
    pub(super) fn discard(&self) -> Result<(), RunError> {
        discard(&self.aside)
    }
}

fn publish(aside: &Path, seen: &Path) -> Result<(), RunError> {
    sync_folders(aside).map_err(|error| failure(aside, &error))?;
    match fs::rename(aside, seen) {
        Ok(()) => {}
        // Which of them it is depends on the file system; a folder without files is replaced.
        Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
            discard(aside)?
        }
        Err(error) => return Err(failure(seen, &error)),
    }
    match seen.parent() {
        Some(parent) => File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| failure(seen, &error)),
        None => Ok(()),
    }
}

/// Makes the names of files and folders in a folder safe; the files are.
fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

/// Removes the hidden folder of a run, in one step for whoever writes into it.
fn discard(aside: &Path) -> Result<(), RunError> {
    let gone = aside.with_extension(&GONE[1..]);
    match fs::rename(aside, &gone) {
        Ok(()) => remove(&gone),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failure(aside, &error)),
    }
}

/// Removes a folder with what is in it; one that is not there is removed.
fn remove(folder: &Path) -> Result<(), RunError> {
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failure(folder, &error)),
    }
}

fn failure(folder: &Path, error: &io::Error) -> RunError {
    RunError::State { path: folder.display().to_string(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};
    use tidemill_engine::EventTime;

    use super::*;
    use crate::spec::{ByteSize, Duration};

    #[test]
    fn partitions_have_folders_that_tell_columns() {
        let directory = tempfile::tempdir().unwrap();
        let range = Range { from: EventTime(1_768_442_400_000_000), to: EventTime(1_768_446_000_000_000) };
        let mut file = FileOutput {
            path: directory.path().to_owned(),
            roll_size: ByteSize::from_mib(1),
            roll_every: Duration::from_secs(1),
            layout: Layout::default(),
        };
        let names = |file: &FileOutput| {
            let folders = Folders::prepare(file, range, "1").unwrap();
            let late = folders.written(true);
            fs::create_dir(&late).unwrap();
            folders.publish().unwrap();
            (folders.seen.file_name().unwrap().to_owned(), late.file_name().unwrap().to_owned())
        };
        assert_eq!(names(&file), ("20260115T020000Z".into(), "late".into()));
        file.layout.partition_by = vec!["country".parse().unwrap()];
        assert_eq!(names(&file), ("range=20260115T020000Z".into(), "late=true".into()));

        let schema =
            Schema::new(vec![Field::new("country", DataType::Utf8, true), Field::new("Late", DataType::Utf8, true)]);
        let error = check_names(&file.layout, &schema).unwrap_err();
        assert_eq!(error, "`partition_by`: column `late` has the name of the folders around it; give it another");
        check_names(&Layout::default(), &schema).unwrap();
    }

    fn folder_with(path: &Path, file: &str) {
        fs::create_dir(path).unwrap();
        fs::write(path.join(file), "").unwrap();
    }

    #[test]
    fn what_is_seen_stays_and_a_run_whose_folder_was_removed_publishes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let [one, two, three, seen] =
            [".r.1.part", ".r.2.part", ".r.3.part", "r"].map(|name| directory.path().join(name));
        folder_with(&one, "of one");
        publish(&one, &seen).unwrap();
        folder_with(&two, "of two");
        publish(&two, &seen).unwrap();
        assert!(seen.join("of one").exists() && !seen.join("of two").exists() && !two.exists());
        folder_with(&three, "of three");
        discard(&three).unwrap();
        discard(&three).unwrap();
        let again = directory.path().join("again");
        publish(&three, &again).unwrap_err();
        assert!(!again.exists());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
