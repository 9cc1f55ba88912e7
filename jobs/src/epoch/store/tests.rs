use arrow::array::{ArrayRef, Int64Array};
use object_store::memory::InMemory;

use super::*;

fn memory() -> (Arc<InMemory>, Arc<Store>) {
    let objects = Arc::new(InMemory::new());
    let store = Store::over(objects.clone(), "job").unwrap();
    (objects, Arc::new(store))
}

fn epoch(epoch: u64) -> EpochRecord {
    EpochRecord { epoch, ..EpochRecord::default() }
}

fn batch(n: i64) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n));
    RecordBatch::try_from_iter([("n", column)]).unwrap()
}

#[test]
fn a_run_that_was_replaced_commits_nothing_however_late_it_wakes() {
    let (_, store) = memory();
    let (mut first, history) = Log::claim(&store, "a").unwrap();
    assert_eq!(history, History::default());
    let begun = Begun { record: epoch(0), outputs: vec!["out".into()] };
    first.append(&Entry::Begun(begun.clone())).unwrap();
    first.append(&Entry::Epoch(epoch(1))).unwrap();
    first.check().unwrap();

    let (mut second, history) = Log::claim(&store, "b").unwrap();
    assert_eq!(history, History { begun: Some(begun.clone()), epoch: Some(epoch(1)) });
    let replaced = |error: StoreError| matches!(error, StoreError::Replaced { .. });
    assert!(replaced(first.check().unwrap_err()));
    assert!(replaced(first.append(&Entry::Epoch(epoch(2))).unwrap_err()));
    // Long enough that the slot which it would take has been removed again.
    for number in 2..50 {
        second.append(&Entry::Epoch(epoch(number))).unwrap();
    }
    let error = first.append(&Entry::Epoch(epoch(2))).unwrap_err();
    assert!(
        error.to_string().starts_with("another run of this job has started and taken over (generation "),
        "{error}"
    );

    let (third, history) = Log::claim(&store, "c").unwrap();
    assert_eq!(history, History { begun: Some(begun), epoch: Some(epoch(49)) });
    assert!(third.generation() > second.generation());
    assert!(slots(&store).unwrap().len() < 12, "old entries go: {:?}", slots(&store));
}

#[test]
fn an_entry_that_was_put_before_its_answer_was_lost_is_ours() {
    let (_, store) = memory();
    assert!(store.put_new("x", b"mine").unwrap());
    assert!(store.put_new("x", b"mine").unwrap());
    assert!(!store.put_new("x", b"yours").unwrap());
}

#[test]
fn the_last_three_snapshots_are_kept_and_give_their_state_back() {
    let (_, store) = memory();
    for number in 1..=5 {
        let state = [vec![batch(3), batch(number)], vec![]];
        store.put_snapshot(epoch(number as u64), epoch(number as u64), &state).unwrap();
    }
    let found = store.snapshots(true).unwrap();
    assert_eq!(found.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(), [5, 4, 3]);
    let newest = found[0].1.as_ref().unwrap();
    assert_eq!((newest.job.as_str(), newest.format, newest.datafusion.as_str()), ("job", FORMAT, DATAFUSION));
    assert_eq!(store.state(newest).unwrap(), [vec![batch(3), batch(5)], vec![]]);
}

#[test]
fn a_snapshot_with_a_flipped_bit_or_a_missing_object_says_why_it_is_none() {
    type Damage<'d> = &'d dyn Fn(&str, &str);
    let (_, store) = memory();
    let damage: [Damage<'_>; 4] = [
        &|_, state| {
            let mut bytes = store.get(state).unwrap().unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            store.put(state, bytes).unwrap();
        },
        &|_, state| store.delete(state).unwrap(),
        &|manifest, _| store.put(manifest, b"torn".to_vec()).unwrap(),
        &|manifest, _| {
            let mut bytes = store.get(manifest).unwrap().unwrap();
            bytes.truncate(bytes.len() - 5);
            store.put(manifest, bytes).unwrap();
        },
    ];
    let whys = ["the checksum of `", "` is missing", "it is cut off", "its checksum is wrong"];
    for (number, (damage, why)) in (1..).zip(damage.into_iter().zip(whys)) {
        store.put_snapshot(epoch(number), epoch(number), &[vec![batch(2)]]).unwrap();
        let name = format!("{number:020}-{:010}", 0);
        damage(&format!("manifests/{name}.json"), &format!("snapshots/{name}/0000.arrow"));
        let found = store.snapshots(true).unwrap();
        let said = found[0].1.as_ref().unwrap_err();
        assert!(said.why.contains(why), "{said:?}");
        assert_eq!(said.epoch.is_some(), number < 3, "{said:?}");
    }
}

#[test]
fn a_directory_holds_the_same_objects() {
    let directory = tempfile::tempdir().unwrap();
    let place = StateStore::Directory(directory.path().join("state"));
    let store = Arc::new(Store::open(&place, "job").unwrap());
    let (mut log, _) = Log::claim(&store, "a").unwrap();
    log.append(&Entry::Epoch(epoch(1))).unwrap();
    store.put_snapshot(epoch(1), epoch(1), &[vec![batch(2)]]).unwrap();
    let again = Arc::new(Store::open(&place, "job").unwrap());
    assert_eq!(Log::claim(&again, "b").unwrap().1.epoch, Some(epoch(1)));
    assert!(again.snapshots(true).unwrap()[0].1.is_ok());
    assert!(directory.path().join("state/job/log").is_dir());
    assert_eq!(again.get("nothing").unwrap(), None);
}

#[test]
fn addresses_of_buckets_are_understood_or_named() {
    let folder = |url: &str| bucket(url).map(|(_, folder)| folder);
    assert_eq!(folder("s3://bucket/a/b/"), Ok("a/b".to_owned()));
    assert_eq!(folder("s3://bucket"), Ok(String::new()));
    assert!(
        folder("ftp://x/y").unwrap_err().contains("unknown kind of store `ftp`; available: a directory, s3, gs, az")
    );
    assert!(folder("bucket").unwrap_err().contains("expected an address"));
}

#[test]
fn the_version_of_datafusion_in_snapshots_is_the_one_that_is_built() {
    let lock = include_str!("../../../../Cargo.lock");
    let (_, rest) = lock.split_once("name = \"datafusion-common\"\nversion = \"").unwrap();
    assert_eq!(rest.split('"').next(), Some(DATAFUSION), "and `FORMAT` or the states' layout may have changed with it");
}
