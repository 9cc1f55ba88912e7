//! The `file` output with a [`Layout`]: rows wait in memory by folder, and are written into files of [`FileSink`]s, one a folder.
//!
//! Used for outputs that are seen as a whole when their run ends: a folder has no epochs. When rows take more than their share of memory, the
//! folder with most of them is written: a part of a file that stays open, or, of rows that are to be in order, files of their own, as what comes
//! later may belong between them. So files are smaller than `roll_size` where memory is short.

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
};

use arrow::{array::RecordBatch, compute::concat_batches, error::ArrowError};
use tidemill_engine::{EngineError, ErrorKind, Result, sink::Sink};

use super::{FileSink, layout::Layout};

/// Folders of one output in one run; more are a mistake, of a column that nearly every row has a value of its own for.
const FOLDERS_MAX: usize = 1_000;
/// Files that are open at a time: a process may often have 1,024, and needs some for its connections.
const OPEN_MAX: usize = 200;
/// Rows that are encoded at a time.
const ROWS_AT_A_TIME: usize = 8_192;

/// Bytes of rows that wait, however much memory there is: the offsets of a text column go to 2 GiB.
const WAITING_MAX: usize = 1 << 30;

/// Opens the sink of a folder, which is created where it is missing.
pub type OpenFolder = Box<dyn Fn(&Path) -> Result<FileSink> + Send>;

/// Writes the rows of one output as its layout says.
pub struct LaidOutSink {
    output: String,
    directory: PathBuf,
    layout: Layout,
    open_folder: OpenFolder,
    /// By path below the directory.
    folders: HashMap<String, Folder>,
    /// Bytes of rows that wait, of all folders, and how many may.
    waiting: usize,
    waiting_max: usize,
    /// Folders whose file is open, the longest first.
    open: VecDeque<String>,
}

struct Folder {
    sink: FileSink,
    rows: Vec<RecordBatch>,
    bytes: usize,
}

impl LaidOutSink {
    /// Begins with nothing; at most about `waiting_max` bytes of rows wait in memory, twice as many while they are put in order.
    #[must_use]
    pub fn new(output: &str, directory: &Path, layout: Layout, waiting_max: usize, open_folder: OpenFolder) -> Self {
        Self {
            output: output.to_owned(),
            directory: directory.to_owned(),
            layout,
            open_folder,
            folders: HashMap::new(),
            waiting: 0,
            waiting_max: waiting_max.min(WAITING_MAX),
            open: VecDeque::new(),
        }
    }

    fn add(&mut self, path: String, rows: RecordBatch) -> Result<()> {
        if !self.folders.contains_key(&path) {
            if self.folders.len() == FOLDERS_MAX {
                let by: Vec<_> = self.layout.partition_by.iter().map(ToString::to_string).collect();
                return Err(self.error(format!(
                    "`partition_by` [{}] makes more than {FOLDERS_MAX} folders in one run, the last one `{path}`; partition by what has \
                     fewer values, and put the rest into `sort_by`",
                    by.join(", ")
                )));
            }
            let sink = (self.open_folder)(&self.directory.join(&path))?;
            self.folders.insert(path.clone(), Folder { sink, rows: vec![], bytes: 0 });
        }
        let Some(folder) = self.folders.get_mut(&path) else { return Ok(()) };
        let other_columns = folder.rows.last().is_some_and(|last| last.schema_ref() != rows.schema_ref());
        if other_columns {
            self.write_folder(&path)?;
        }
        let Some(folder) = self.folders.get_mut(&path) else { return Ok(()) };
        let bytes = rows.get_array_memory_size();
        folder.bytes += bytes;
        folder.rows.push(rows);
        self.waiting += bytes;
        Ok(())
    }

    /// Writes the rows of a folder that wait.
    fn write_folder(&mut self, path: &str) -> Result<()> {
        let Some(folder) = self.folders.get_mut(path) else { return Ok(()) };
        let rows = std::mem::take(&mut folder.rows);
        self.waiting -= std::mem::take(&mut folder.bytes);
        let Some(first) = rows.first() else { return Ok(()) };
        let together = concat_batches(first.schema_ref(), &rows)?;
        drop(rows);
        let together = self.layout.sorted(&together)?;
        for start in (0..together.num_rows()).step_by(ROWS_AT_A_TIME) {
            folder.sink.write(&together.slice(start, ROWS_AT_A_TIME.min(together.num_rows() - start)))?;
        }
        if !self.layout.sort_by.is_empty() {
            return folder.sink.flush();
        }
        folder.sink.write_through()?;
        let is_open = folder.sink.has_unflushed();
        self.open.retain(|open| open != path);
        if is_open {
            self.open.push_back(path.to_owned());
        }
        if self.open.len() > OPEN_MAX
            && let Some(folder) = self.open.pop_front().and_then(|longest| self.folders.get_mut(&longest))
        {
            folder.sink.flush()?;
        }
        Ok(())
    }

    fn error(&self, message: String) -> EngineError {
        EngineError::Sink { output: self.output.clone(), kind: ErrorKind::User, message }
    }
}

impl Sink for LaidOutSink {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let split = self.layout.split(batch).map_err(|error| match error {
            ArrowError::SchemaError(message) | ArrowError::InvalidArgumentError(message) => self.error(message),
            error => error.into(),
        })?;
        split.into_iter().try_for_each(|(path, rows)| self.add(path, rows))?;
        while self.waiting > self.waiting_max {
            let most = self.folders.iter().max_by_key(|(_, folder)| folder.bytes).map(|(path, _)| path.clone());
            let Some(most) = most else { break };
            self.write_folder(&most)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let mut paths: Vec<_> = self.folders.keys().cloned().collect();
        paths.sort();
        for path in paths {
            self.write_folder(&path)?;
            if let Some(folder) = self.folders.get_mut(&path) {
                folder.sink.flush()?;
            }
        }
        self.open.clear();
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::Arc, time::Duration};

    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;

    use super::super::{FixedClock, OutputFormat, Rolling, each_parquet_batch};
    use super::*;

    fn sink(directory: &Path, partition_by: &[&str], sort_by: &[&str], waiting_max: usize, size: u64) -> LaidOutSink {
        let layout = Layout {
            partition_by: partition_by.iter().map(|text| text.parse().unwrap()).collect(),
            sort_by: sort_by.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let open: OpenFolder = Box::new(move |folder| {
            let rolling = Rolling { size, every: Duration::MAX };
            FileSink::open("out", "r", folder, OutputFormat::Parquet, rolling, Arc::<FixedClock>::default())
        });
        LaidOutSink::new("out", directory, layout, waiting_max, open)
    }

    /// Numbers in an order of their own; a third of them in each of three countries.
    fn batches(count: i64) -> impl Iterator<Item = RecordBatch> {
        let numbers: Vec<i64> = (0..count).map(|n| n * 7_919 % count).collect();
        let batch = |numbers: &[i64]| {
            let countries = numbers.iter().map(|n| ["DE", "FR", "IT"][*n as usize % 3]);
            let columns: [(&str, ArrayRef); 2] = [
                ("n", Arc::new(Int64Array::from(numbers.to_vec()))),
                ("country", Arc::new(StringArray::from_iter_values(countries))),
            ];
            RecordBatch::try_from_iter(columns).unwrap()
        };
        let batches: Vec<_> = numbers.chunks(100).map(batch).collect();
        batches.into_iter()
    }

    /// The numbers of each file of a folder, in the order of names.
    fn files(folder: &Path) -> Vec<Vec<i64>> {
        let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let numbers = |path: &PathBuf| {
            let mut numbers = vec![];
            each_parquet_batch(path, &mut |rows| {
                numbers.extend(rows["n"].as_primitive::<Int64Type>().values());
                Ok(())
            })
            .unwrap();
            numbers
        };
        paths.iter().map(numbers).collect()
    }

    fn sorted(mut numbers: Vec<i64>) -> Vec<i64> {
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn each_row_is_in_the_file_of_its_folder_however_little_memory_there_is() {
        for waiting_max in [0, 10_000, 1 << 30] {
            let directory = tempfile::tempdir().unwrap();
            let mut sink = sink(directory.path(), &["country"], &[], waiting_max, 1 << 30);
            batches(3_000).for_each(|batch| sink.write(&batch).unwrap());
            sink.close().unwrap();
            for (rest, country) in (0..).zip(["DE", "FR", "IT"]) {
                let files = files(&directory.path().join(format!("country={country}")));
                assert_eq!(files.len(), 1, "memory does not close a file");
                assert_eq!(sorted(files.concat()), (rest..3_000).step_by(3).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_file_is_in_order_and_closed_when_it_is_large_enough_or_memory_is_short() {
        let files_of = |waiting_max, size| {
            let directory = tempfile::tempdir().unwrap();
            let mut sink = sink(directory.path(), &[], &["country", "n desc"], waiting_max, size);
            batches(30_000).for_each(|batch| sink.write(&batch).unwrap());
            sink.close().unwrap();
            files(directory.path())
        };
        let in_order = |numbers: &Vec<i64>| numbers.is_sorted_by_key(|n| (n % 3, -n));
        let whole = files_of(1 << 30, 1 << 30);
        assert!(whole.len() == 1 && in_order(&whole[0]));
        let large = files_of(1 << 30, 10_000);
        assert!(large.len() > 1 && in_order(&large.concat()), "one order through all files");
        let short = files_of(100_000, 1 << 30);
        assert!(short.len() > 2 && short.iter().all(in_order), "{} files", short.len());
        for files in [whole, large, short] {
            assert_eq!(sorted(files.concat()), (0..30_000).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_column_of_too_many_values_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut sink = sink(directory.path(), &["n"], &[], 1 << 20, 1 << 20);
        let error = batches(3_000).find_map(|batch| sink.write(&batch).err()).unwrap().to_string();
        assert!(
            error.contains("`partition_by` [n] makes more than 1000 folders in one run, the last one `n="),
            "{error}"
        );
    }

    #[test]
    fn many_folders_are_few_open_files() {
        let directory = tempfile::tempdir().unwrap();
        let mut sink = sink(directory.path(), &["n"], &[], 0, 1 << 20);
        batches(600).for_each(|batch| sink.write(&batch).unwrap());
        let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let ours = open.filter(|fd| fs::read_link(fd.path()).is_ok_and(|file| file.starts_with(directory.path())));
        assert!(ours.count() <= OPEN_MAX);
        sink.close().unwrap();
        assert_eq!(fs::read_dir(directory.path().join("n=599")).unwrap().count(), 1);
    }
}
