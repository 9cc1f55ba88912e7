//! The state store: small objects under `<store>/<job>/`, in a directory or a bucket.
//!
//! | object | what |
//! |---|---|
//! | `log/<slot>.json` | claims of generations, starts, epochs; each slot is created once, by whoever comes first |
//! | `manifests/<epoch>-<generation>.json` | a snapshot that is whole |
//! | `snapshots/<epoch>-<generation>/<operator>.arrow` | the state of an operator |
//! | `<input>.schema.arrow` | an inferred schema |
//! | `runs/`, `failures/`, `boundaries/`, `trimmed/`, `begun.json`, `paused` | of a pipeline (`crate::schedule`) |
//!
//! Invariants: a run claims the next slot of the log before it looks at anything, and writes only slots of its own line behind
//! it; a run that finds its next slot taken has been replaced and stops. So of two runs of a job at most one commits, whatever
//! freezes where. A manifest is put when all that it names is in the store and its epoch is committed.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    sync::Arc,
};

use arrow::{
    array::RecordBatch,
    ipc::{
        CompressionType,
        reader::StreamReader,
        writer::{IpcWriteOptions, StreamWriter},
    },
};
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutPayload, aws::AmazonS3Builder, azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder, local::LocalFileSystem, path::Path,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::runtime::{self, Runtime};

use super::record::EpochRecord;
use crate::spec::StateStore;

/// Version of manifests and of what they name.
pub(crate) const FORMAT: u32 = 1;
/// The DataFusion whose aggregates' states are in snapshots: another one may lay them out otherwise.
pub(crate) const DATAFUSION: &str = "55.2.0";
/// Snapshots that are kept.
const SNAPSHOTS_KEPT: usize = 3;
/// Entries of the log that are kept beside the last start.
const ENTRIES_KEPT: u64 = 4;

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// It cannot be used now, or not at all.
    #[error("state `{place}`: {message}")]
    Failed {
        /// The object.
        place: String,
        /// What the store said.
        message: String,
    },
    /// Another run has claimed the job.
    #[error(
        "another run of this job has started and taken over (generation {by}); this one, generation {own}, stops: two copies of a \
         job cannot run at once"
    )]
    Replaced {
        /// Ours.
        own: u64,
        /// Theirs.
        by: u64,
    },
}

/// The start of a job at `start`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// Where it stood then.
    pub(crate) record: EpochRecord,
    /// The outputs that it had.
    pub(crate) outputs: Vec<String>,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    /// A run claims the job; its number is the slot.
    Claim {
        /// Unique among runs.
        run: String,
    },
    /// It begins the job at `start`.
    Begun(Begun),
    /// It has prepared an epoch in all outputs, which counts now.
    Epoch(EpochRecord),
}

/// A snapshot that is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) job: String,
    pub(crate) datafusion: String,
    /// The epoch that it was taken at, as it was committed.
    pub(crate) epoch: EpochRecord,
    /// The same, beginning where it stood.
    pub(crate) standing: EpochRecord,
    /// The operators' states, in their order.
    pub(crate) operators: Vec<StateObject>,
}

/// One operator's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateObject {
    /// Its object, under the job's.
    pub(crate) object: String,
    pub(crate) bytes: u64,
    pub(crate) crc32c: u32,
}

/// The objects of one job.
pub(crate) struct Store {
    objects: Arc<dyn ObjectStore>,
    /// Of all names.
    prefix: Path,
    /// The directory of the objects, when they are files: they are synced by us.
    directory: Option<PathBuf>,
    shown: String,
    job: String,
    runtime: Runtime,
}

/// A snapshot's epoch, and its manifest or why it cannot be used.
pub(crate) type Found = (u64, Result<Manifest, Damage>);

/// Why a snapshot cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) why: String,
    /// Its epoch as the manifest has it, where that can still be read: what it tells counts also without the states.
    pub(crate) epoch: Option<EpochRecord>,
}

impl Store {
    /// Opens the store of a job; a directory is created where it is missing.
    ///
    /// # Errors
    /// An address that is none, a directory that cannot be created.
    pub(crate) fn open(store: &StateStore, job: &str) -> Result<Self, StoreError> {
        let failed = |message: String| StoreError::Failed { place: store.to_string(), message };
        match store {
            StateStore::Directory(path) => {
                let directory = path.join(job);
                fs::create_dir_all(&directory).map_err(|error| failed(error.to_string()))?;
                let objects =
                    LocalFileSystem::new_with_prefix(&directory).map_err(|error| failed(error.to_string()))?;
                Self::of(Arc::new(objects), "", Some(directory), store.to_string(), job)
            }
            StateStore::Url(url) => {
                let (objects, prefix) = bucket(url).map_err(failed)?;
                Self::of(objects, &prefix, None, store.to_string(), job)
            }
        }
    }

    fn of(
        objects: Arc<dyn ObjectStore>,
        prefix: &str,
        directory: Option<PathBuf>,
        shown: String,
        job: &str,
    ) -> Result<Self, StoreError> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime =
            runtime.map_err(|error| StoreError::Failed { place: shown.clone(), message: error.to_string() })?;
        let prefix = if directory.is_some() { Path::default() } else { Path::from(format!("{prefix}/{job}")) };
        Ok(Self { objects, prefix, directory, shown, job: job.to_owned(), runtime })
    }

    /// A store over any objects, on the caller's thread: the simulator's.
    ///
    /// # Errors
    /// When the system has no means for it.
    pub(crate) fn over(objects: Arc<dyn ObjectStore>, job: &str) -> Result<Self, StoreError> {
        let runtime = runtime::Builder::new_current_thread().build();
        let failed = |error: io::Error| StoreError::Failed { place: "memory".to_owned(), message: error.to_string() };
        let (runtime, shown, job) = (runtime.map_err(failed)?, "memory".to_owned(), job.to_owned());
        Ok(Self { objects, prefix: Path::default(), directory: None, shown, job, runtime })
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn failed(&self, name: &str, error: impl std::fmt::Display) -> StoreError {
        let place = if name.is_empty() { self.shown.clone() } else { format!("{}/{}/{name}", self.shown, self.job) };
        StoreError::Failed { place, message: error.to_string() }
    }

    /// An object; `None` when there is none of this name.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(name);
        let read = async {
            match self.objects.get(&path).await {
                Ok(found) => found.bytes().await.map(Some),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let found = self.runtime.block_on(read).map_err(|error| self.failed(name, error))?;
        Ok(found.map(|bytes| bytes.to_vec()))
    }

    /// Puts an object, whole or not at all, in the place of one of this name.
    pub(crate) fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.put_as(name, bytes, PutMode::Overwrite).map(drop)
    }

    /// Puts an object that must not exist yet; whether it is ours, which it is also when an answer was lost and we had put it
    /// before.
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        let put = self.put_as(name, bytes.to_vec(), PutMode::Create);
        Ok(put? || self.get(name)?.is_some_and(|found| found == bytes))
    }

    /// False when it exists and must not.
    fn put_as(&self, name: &str, bytes: Vec<u8>, mode: PutMode) -> Result<bool, StoreError> {
        let path = self.path(name);
        let put = self.objects.put_opts(&path, PutPayload::from(bytes), mode.into());
        match self.runtime.block_on(put) {
            Ok(_) => self.sync(name).map(|()| true).map_err(|error| self.failed(name, error)),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// A file is safe when it is synced, and its name when its directory is.
    fn sync(&self, name: &str) -> io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let path = directory.join(name);
        File::open(&path)?.sync_all()?;
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    }

    /// Whether objects can be put and removed; none is left behind.
    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        const PROBE: &str = "doctor";
        self.put(PROBE, vec![])?;
        self.delete(PROBE)
    }

    /// Removes an object; one that is not there is removed.
    pub(crate) fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.runtime.block_on(self.objects.delete(&self.path(name))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// The names of the objects directly in a folder, without it, sorted.
    pub(crate) fn names(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(folder);
        let listed = self.runtime.block_on(self.objects.list_with_delimiter(Some(&path)));
        let listed = match listed {
            Ok(listed) => listed,
            Err(object_store::Error::NotFound { .. }) => return Ok(vec![]),
            Err(error) => return Err(self.failed(folder, error)),
        };
        let names = listed.objects.iter().filter_map(|object| object.location.filename().map(str::to_owned));
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(names)
    }

    /// Puts a document with a checksum before it.
    pub(crate) fn put_document(&self, name: &str, document: &impl Serialize) -> Result<(), StoreError> {
        self.put(name, self.with_checksum(name, document)?)
    }

    /// Puts a document that must not exist yet; whether it is ours.
    pub(crate) fn put_new_document(&self, name: &str, document: &impl Serialize) -> Result<bool, StoreError> {
        self.put_new(name, &self.with_checksum(name, document)?)
    }

    fn with_checksum(&self, name: &str, document: &impl Serialize) -> Result<Vec<u8>, StoreError> {
        let json = serde_json::to_vec(document).map_err(|error| self.failed(name, error))?;
        Ok([checksum_line(&json).as_bytes(), &json].concat())
    }

    /// A document; `None` when there is none of this name.
    pub(crate) fn read_document<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let read = |bytes: Vec<u8>| Self::document(&bytes).map_err(|why| self.failed(name, why));
        self.get(name)?.map(read).transpose()
    }

    /// A document; an error says why it is none.
    fn document<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
        let split = bytes.iter().position(|&byte| byte == b'\n').map(|at| bytes.split_at(at + 1));
        let Some((line, json)) = split else { return Err("it is cut off".to_owned()) };
        if line != checksum_line(json).as_bytes() {
            return Err("its checksum is wrong".to_owned());
        }
        serde_json::from_slice(json).map_err(|error| error.to_string())
    }

    /// The snapshots, the newest first, each whole or with why it is not; with their states only when `verify`.
    pub(crate) fn snapshots(&self, verify: bool) -> Result<Vec<Found>, StoreError> {
        let mut found = vec![];
        for name in self.names("manifests")?.iter().rev() {
            let Some(epoch) = name.split('-').next().and_then(|epoch| epoch.parse().ok()) else { continue };
            let bytes = self.get(&format!("manifests/{name}"))?.unwrap_or_default();
            let manifest = match Self::document::<Manifest>(&bytes) {
                Ok(whole) if verify && whole.format == FORMAT => match self.verify(&whole)? {
                    Ok(()) => Ok(whole),
                    Err(why) => Err(Damage { why, epoch: Some(whole.epoch) }),
                },
                Ok(whole) => Ok(whole),
                Err(why) => Err(Damage { why, epoch: None }),
            };
            found.push((epoch, manifest));
        }
        Ok(found)
    }

    fn verify(&self, manifest: &Manifest) -> Result<Result<(), String>, StoreError> {
        for StateObject { object, bytes, crc32c } in &manifest.operators {
            match self.get(object)? {
                Some(found) if found.len() as u64 == *bytes && crc32c::crc32c(&found) == *crc32c => {}
                Some(_) => return Ok(Err(format!("the checksum of `{object}` is wrong"))),
                None => return Ok(Err(format!("`{object}` is missing"))),
            }
        }
        Ok(Ok(()))
    }

    /// The state that a manifest names, by operator.
    ///
    /// # Errors
    /// An object that is gone or no Arrow stream: it was verified before.
    pub(crate) fn state(&self, manifest: &Manifest) -> Result<Vec<Vec<RecordBatch>>, StoreError> {
        let operator = |object: &StateObject| {
            let bytes = self.get(&object.object)?.unwrap_or_default();
            decode(&bytes).map_err(|error| self.failed(&object.object, error))
        };
        manifest.operators.iter().map(operator).collect()
    }

    /// Puts a snapshot: the states, and when they are there the manifest. Older ones are removed afterwards. Returns the bytes
    /// of the states.
    ///
    /// # Errors
    /// Of the store; what was put is of no consequence without a manifest.
    pub(crate) fn put_snapshot(
        &self,
        epoch: EpochRecord,
        standing: EpochRecord,
        state: &[Vec<RecordBatch>],
    ) -> Result<u64, StoreError> {
        let name = format!("{:020}-{:010}", standing.epoch, standing.generation);
        let (mut operators, mut size) = (vec![], 0);
        for (index, batches) in state.iter().enumerate() {
            let object = format!("snapshots/{name}/{index:04}.arrow");
            let bytes = encode(batches).map_err(|error| self.failed(&object, error))?;
            size += bytes.len() as u64;
            operators.push(StateObject {
                object: object.clone(),
                bytes: bytes.len() as u64,
                crc32c: crc32c::crc32c(&bytes),
            });
            self.put(&object, bytes)?;
        }
        let (job, datafusion) = (self.job.clone(), DATAFUSION.to_owned());
        let manifest = Manifest { format: FORMAT, job, datafusion, epoch, standing, operators };
        self.put_document(&format!("manifests/{name}.json"), &manifest)?;
        self.remove_old_snapshots()?;
        Ok(size)
    }

    fn remove_old_snapshots(&self) -> Result<(), StoreError> {
        let manifests = self.names("manifests")?;
        for manifest in manifests.iter().rev().skip(SNAPSHOTS_KEPT) {
            self.delete(&format!("manifests/{manifest}"))?;
            let folder = format!("snapshots/{}", manifest.trim_end_matches(".json"));
            for object in self.names(&folder)? {
                self.delete(&format!("{folder}/{object}"))?;
            }
        }
        Ok(())
    }
}

fn checksum_line(bytes: &[u8]) -> String {
    format!("{:08x}\n", crc32c::crc32c(bytes))
}

/// An operator's batches as one object: each as an Arrow stream of its own, since each may have a schema of its own, behind its
/// length in eight bytes.
fn encode(batches: &[RecordBatch]) -> Result<Vec<u8>, arrow::error::ArrowError> {
    let mut bytes = vec![];
    for batch in batches {
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
        let mut stream = vec![];
        let mut writer = StreamWriter::try_new_with_options(&mut stream, batch.schema_ref(), options)?;
        writer.write(batch)?;
        writer.finish()?;
        bytes.extend((stream.len() as u64).to_le_bytes());
        bytes.append(&mut stream);
    }
    Ok(bytes)
}

fn decode(mut bytes: &[u8]) -> Result<Vec<RecordBatch>, arrow::error::ArrowError> {
    let mut batches = vec![];
    while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some((stream, rest)) = rest.split_at_checked(length) else {
            return Err(arrow::error::ArrowError::IpcError("the state is cut off".to_owned()));
        };
        for batch in StreamReader::try_new(stream, None)? {
            batches.push(batch?);
        }
        bytes = rest;
    }
    Ok(batches)
}

/// The bucket of an address, and the folder in it. Who we are there comes from the environment, as the providers' own tools
/// have it.
fn bucket(url: &str) -> Result<(Arc<dyn ObjectStore>, String), String> {
    let (scheme, rest) = url.split_once("://").ok_or("expected an address such as `s3://bucket/folder`")?;
    let folder = |rest: &str| rest.split_once('/').map_or(String::new(), |(_, path)| path.trim_matches('/').to_owned());
    let text = |error: object_store::Error| error.to_string();
    match scheme {
        "s3" | "s3a" => {
            let store = AmazonS3Builder::from_env().with_url(url).build().map_err(text)?;
            Ok((Arc::new(store), folder(rest)))
        }
        "gs" => {
            let store = GoogleCloudStorageBuilder::from_env().with_url(url).build().map_err(text)?;
            Ok((Arc::new(store), folder(rest)))
        }
        "az" | "azure" | "abfs" | "abfss" | "https" => {
            let store = MicrosoftAzureBuilder::from_env().with_url(url).build().map_err(text)?;
            // `https://account.blob.core.windows.net/container/folder` has the container in its path.
            let folder = if scheme == "https" { folder(&folder(rest)) } else { folder(rest) };
            Ok((Arc::new(store), folder))
        }
        other => Err(format!("unknown kind of store `{other}`; available: a directory, s3, gs, az, abfss, https")),
    }
}

/// The log of generations and epochs, as the run that claimed it sees it.
pub(crate) struct Log {
    store: Arc<Store>,
    generation: u64,
    /// The last entry of ours.
    slot: u64,
    /// Own epochs that the next ones make needless.
    epochs: Vec<u64>,
}

/// What the log said when it was claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    pub(crate) begun: Option<Begun>,
    pub(crate) epoch: Option<EpochRecord>,
}

impl Log {
    /// Claims the job for a run: whoever ran it before cannot commit any more.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) fn claim(store: &Arc<Store>, run: &str) -> Result<(Self, History), StoreError> {
        let claim = Entry::Claim { run: run.to_owned() };
        let json = serde_json::to_vec(&claim).map_err(|error| store.failed("log", error))?;
        let claim = [checksum_line(&json).as_bytes(), &json].concat();
        let slot = loop {
            let next = slots(store)?.last().map_or(1, |last| last + 1);
            if store.put_new(&entry_name(next), &claim)? {
                break next;
            }
        };
        let (history, told_by) = told_before(store, slot)?;
        for before in slots(store)?.into_iter().filter(|before| before + ENTRIES_KEPT < slot) {
            if !told_by.contains(&before) {
                store.delete(&entry_name(before))?;
            }
        }
        Ok((Self { store: Arc::clone(store), generation: slot, slot, epochs: vec![] }, history))
    }

    /// What the log says, for somebody who runs nothing.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) fn read(store: &Store) -> Result<History, StoreError> {
        Ok(told_before(store, u64::MAX)?.0)
    }

    /// The run's number.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds an entry; from then on it counts.
    ///
    /// # Errors
    /// [`StoreError::Replaced`] when another run has claimed the job; then nothing was added.
    pub(crate) fn append(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let next = self.slot + 1;
        let json = serde_json::to_vec(entry).map_err(|error| self.store.failed("log", error))?;
        let bytes = [checksum_line(&json).as_bytes(), &json].concat();
        let ours = self.store.put_new(&entry_name(next), &bytes)?;
        // A slot that was taken and removed since is free again, but others lie behind it.
        let last = slots(&self.store)?.last().copied().unwrap_or(next);
        if !ours || last > next {
            return Err(StoreError::Replaced { own: self.generation, by: last.max(next) });
        }
        self.slot = next;
        if let Entry::Epoch(_) = entry {
            self.epochs.push(next);
            if self.epochs.len() > 2 {
                // It is of no consequence when this fails: the next claim tidies up.
                let _ = self.store.delete(&entry_name(self.epochs.remove(0)));
            }
        }
        Ok(())
    }

    /// Whether another run has claimed the job since.
    ///
    /// # Errors
    /// [`StoreError::Replaced`] when it has; of the store.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match slots(&self.store)?.last() {
            Some(&last) if last > self.slot => Err(StoreError::Replaced { own: self.generation, by: last }),
            _ => Ok(()),
        }
    }
}

/// The last beginning and the last epoch below a slot, and the slots that tell them.
fn told_before(store: &Store, slot: u64) -> Result<(History, Vec<u64>), StoreError> {
    let mut history = History::default();
    let mut told_by = vec![];
    for &before in slots(store)?.iter().rev().filter(|before| **before < slot) {
        let bytes = store.get(&entry_name(before))?.unwrap_or_default();
        match Store::document(&bytes) {
            Ok(Entry::Epoch(record)) if history.epoch.is_none() => {
                history.epoch = Some(record);
                told_by.push(before);
            }
            Ok(Entry::Begun(begun)) if history.begun.is_none() => {
                if history.epoch.is_none() {
                    history.epoch = Some(begun.record.clone());
                }
                history.begun = Some(begun);
                told_by.push(before);
            }
            _ => {}
        }
    }
    Ok((history, told_by))
}

fn entry_name(slot: u64) -> String {
    format!("log/{slot:020}.json")
}

/// The slots that are taken, in order.
fn slots(store: &Store) -> Result<Vec<u64>, StoreError> {
    let names = store.names("log")?;
    Ok(names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect())
}

#[cfg(test)]
mod tests;
