//! The channel of a worker to the merge thread, bounded by messages and by the bytes of their rows.
//!
//! Each worker has a bound of its own: one that waits at an epoch for the others cannot fill theirs.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    time::Duration,
};

use tidemill_engine::dataflow::merge::FromWorker;

/// How long a worker waits for room before it looks whether the run is being given up.
const WAIT: Duration = Duration::from_millis(20);

/// A channel of `capacity` messages whose rows take `limit_bytes` together; a single message may take more. `abort` ends a wait.
pub(super) fn exchange(capacity: usize, limit_bytes: u64, abort: Arc<AtomicBool>) -> (ToMerge, FromOneWorker) {
    let (sender, receiver) = sync_channel(capacity);
    let room = Arc::new(Room { taken_bytes: Mutex::new(0), freed: Condvar::new() });
    (ToMerge { sender, room: Arc::clone(&room), limit_bytes, abort }, FromOneWorker { receiver, room })
}

struct Room {
    /// Of the messages on their way.
    taken_bytes: Mutex<u64>,
    freed: Condvar,
}

/// The worker's end.
pub(super) struct ToMerge {
    sender: SyncSender<(FromWorker, u64)>,
    room: Arc<Room>,
    limit_bytes: u64,
    abort: Arc<AtomicBool>,
}

/// The other end has been dropped.
#[derive(Debug)]
pub(super) struct MergeLeft;

impl ToMerge {
    /// Waits for room.
    pub(super) fn send(&self, message: FromWorker) -> Result<(), MergeLeft> {
        let bytes = message.bytes();
        let mut taken = self.room.taken_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken > 0 && *taken + bytes > self.limit_bytes && !self.abort.load(Ordering::Relaxed) {
            taken = self.room.freed.wait_timeout(taken, WAIT).unwrap_or_else(PoisonError::into_inner).0;
        }
        *taken += bytes;
        drop(taken);
        self.sender.send((message, bytes)).map_err(|_| MergeLeft)
    }
}

/// The merge thread's end.
pub(super) struct FromOneWorker {
    receiver: Receiver<(FromWorker, u64)>,
    room: Arc<Room>,
}

impl FromOneWorker {
    /// The next message, if there is one; its room is free.
    pub(super) fn try_recv(&self) -> Result<FromWorker, TryRecvError> {
        let (message, bytes) = self.receiver.try_recv()?;
        *self.room.taken_bytes.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.room.freed.notify_one();
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};

    use super::*;

    fn rows(count: i64) -> FromWorker {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
        FromWorker::Letters(RecordBatch::try_from_iter([("n", column)]).unwrap())
    }

    #[test]
    fn a_worker_waits_until_what_it_sent_is_taken() {
        let (to_merge, from_worker) = exchange(32, 1_000, Arc::default());
        let (told, tells) = sync_channel(1);
        let worker = thread::spawn(move || {
            for count in [100, 1_000, 100] {
                to_merge.send(rows(count)).unwrap();
                told.send(count).unwrap();
            }
        });
        // 800 bytes fit; 8,000 more do not, until nothing else is on its way.
        assert_eq!(tells.recv().unwrap(), 100);
        assert!(tells.recv_timeout(3 * WAIT).is_err());
        assert_eq!(from_worker.try_recv().unwrap().bytes(), 800);
        assert_eq!(tells.recv().unwrap(), 1_000);
        assert_eq!(from_worker.try_recv().unwrap().bytes(), 8_000);
        assert_eq!(tells.recv().unwrap(), 100);
        worker.join().unwrap();
        assert_eq!(from_worker.try_recv().unwrap().bytes(), 800);
        assert!(matches!(from_worker.try_recv(), Err(TryRecvError::Disconnected)));
    }

    #[test]
    fn a_run_that_is_given_up_leaves_no_worker_waiting() {
        let abort = Arc::<AtomicBool>::default();
        let (to_merge, from_worker) = exchange(32, 1_000, Arc::clone(&abort));
        to_merge.send(rows(100)).unwrap();
        let worker = thread::spawn(move || to_merge.send(rows(100)));
        abort.store(true, Ordering::Relaxed);
        assert!(worker.join().unwrap().is_ok());
        drop(from_worker);
    }
}
