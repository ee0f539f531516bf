use std::io::{self, Read, Write};

use ashlar_llb::digest::{BlobDigest, DiffId};

use super::*;

fn store() -> (tempfile::TempDir, BlobStore) {
    let folder = tempfile::tempdir().unwrap();
    let directory = std::fs::File::open(folder.path()).unwrap();
    (folder, BlobStore::new(directory.into()))
}

fn names(folder: &tempfile::TempDir) -> usize {
    std::fs::read_dir(folder.path()).unwrap().count()
}

fn cause(error: &io::Error) -> &ContentError {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref())
        .expect("an error of this module")
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

fn inflate(blob: &[u8], compression: Compression, limit: u64) -> io::Result<(Vec<u8>, DiffId)> {
    let mut reader = Inflate::new(blob, compression, limit).unwrap();
    let mut out = Vec::new();
    reader.read_to_end(&mut out)?;
    assert!(reader.ended());
    Ok((out, reader.diff_id()))
}

#[test]
fn a_blob_is_there_when_it_is_finished_and_not_before() {
    let (folder, store) = store();
    let mut writer = store.writer().unwrap();
    writer.write_all(b"hello").unwrap();
    assert_eq!(names(&folder), 0);
    let blob = writer.finish(None).unwrap();
    assert_eq!((blob.digest, blob.size), (BlobDigest::of(b"hello"), 5));
    assert_eq!(store.size(&blob.digest).unwrap(), Some(5));
    let mut text = String::new();
    store
        .open(&blob.digest)
        .unwrap()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "hello");
    // Again, and from memory.
    assert_eq!(store.put(b"hello").unwrap(), blob);
    let mut again = store.writer().unwrap();
    again.write_all(b"hello").unwrap();
    assert_eq!(again.finish(Some((blob.digest, 5))).unwrap(), blob);
    assert!(store.remove(&blob.digest).unwrap());
    assert!(!store.remove(&blob.digest).unwrap());
    assert!(store.open(&blob.digest).unwrap().is_none());
    assert_eq!(names(&folder), 0);
}

#[test]
fn class_11_wrong_bytes_are_never_stored() {
    let (folder, store) = store();
    let digest = BlobDigest::of(b"hello");
    let write = |bytes: &[u8], expected| {
        let mut writer = store.writer().unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish(Some(expected)).unwrap_err()
    };
    assert!(matches!(
        write(b"jello", (digest, 5)),
        ContentError::Digest { .. }
    ));
    assert!(matches!(
        write(b"hello", (digest, 6)),
        ContentError::Size { .. }
    ));
    let copied = store
        .copy_in(&mut &b"hello and more"[..], digest, 5)
        .unwrap_err();
    assert!(matches!(copied, ContentError::Size { found: 6, .. }));
    assert_eq!(
        store.copy_in(&mut &b"hello"[..], digest, 5).unwrap().size,
        5
    );
    assert_eq!(names(&folder), 1);
}

#[test]
fn a_dropped_writer_leaves_nothing() {
    let (folder, store) = store();
    let mut writer = store.writer().unwrap();
    writer.write_all(&[1; 100_000]).unwrap();
    drop(writer);
    assert_eq!(names(&folder), 0);
}

#[test]
fn class_11_every_changed_byte_is_noticed() {
    let data: Vec<u8> = (0..200_u8).collect();
    let digest = BlobDigest::of(&data);
    let read = |bytes: &[u8], size| {
        let mut out = Vec::new();
        let mut reader = Verify::new(bytes, digest, size);
        reader
            .read_to_end(&mut out)
            .map(|_| assert!(reader.verified()))
    };
    read(&data, 200).unwrap();
    for at in 0..data.len() {
        let mut bad = data.clone();
        bad[at] ^= 1;
        let error = read(&bad, 200).unwrap_err();
        assert!(matches!(cause(&error), ContentError::Digest { .. }), "{at}");
        let error = read(&data[..at], 200).unwrap_err();
        assert!(matches!(cause(&error), ContentError::Size { .. }), "{at}");
    }
    let longer = [&data[..], b"x"].concat();
    let error = read(&longer, 200).unwrap_err();
    assert!(matches!(
        cause(&error),
        ContentError::Size { found: 201, .. }
    ));
}

#[test]
fn an_error_stays_an_error() {
    let mut reader = Verify::new(&b"abc"[..], BlobDigest::of(b"abd"), 3);
    let mut buffer = [0; 8];
    assert_eq!(reader.read(&mut buffer).unwrap(), 3);
    assert!(reader.read(&mut buffer).is_err());
    assert!(reader.read(&mut buffer).is_err());
    assert!(!reader.verified());
}

#[test]
fn all_compressions_give_the_same_diff_id() {
    let data = b"some tar stream".repeat(10_000);
    let id = DiffId::of(&data);
    let half = data.len() / 2;
    let members = [gzip(&data[..half]), gzip(&data[half..])].concat();
    let frames = [
        zstd::encode_all(&data[..half], 3).unwrap(),
        zstd::encode_all(&data[half..], 3).unwrap(),
    ]
    .concat();
    for (blob, compression) in [
        (data.clone(), Compression::Uncompressed),
        (gzip(&data), Compression::Gzip),
        (members, Compression::Gzip),
        (frames, Compression::Zstd),
    ] {
        let (out, found) = inflate(&blob, compression, u64::MAX).unwrap();
        assert_eq!((out.len(), found), (data.len(), id));
        assert_eq!(Compression::of_magic(&blob), compression);
    }
}

#[test]
fn class_12_bombs_stop_at_the_limit() {
    let zeros = vec![0; 8 << 20];
    let bombs = [
        (gzip(&zeros), Compression::Gzip),
        (zstd::encode_all(&zeros[..], 3).unwrap(), Compression::Zstd),
        (zeros, Compression::Uncompressed),
    ];
    for (bomb, compression) in bombs {
        let error = inflate(&bomb, compression, 1 << 20).unwrap_err();
        assert!(
            matches!(cause(&error), ContentError::TooLarge { .. }),
            "{compression:?}"
        );
    }
}

#[test]
fn class_12_a_zstd_window_that_would_need_gigabytes_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&vec![7; 1 << 20]).unwrap();
    let blob = encoder.finish().unwrap();
    let error = inflate(&blob, Compression::Zstd, u64::MAX).unwrap_err();
    assert!(
        matches!(cause(&error), ContentError::Inflate { .. }),
        "{error:?}"
    );
}

#[test]
fn damaged_streams_are_errors_wherever_they_break() {
    let data: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
    for (blob, compression) in [
        (gzip(&data), Compression::Gzip),
        (zstd::encode_all(&data[..], 3).unwrap(), Compression::Zstd),
    ] {
        for cut in [1, 5, blob.len() / 2, blob.len() - 1] {
            let error = inflate(&blob[..cut], compression, u64::MAX).unwrap_err();
            assert!(
                matches!(cause(&error), ContentError::Inflate { .. }),
                "{cut} {error:?}"
            );
        }
    }
}

#[test]
fn media_types_of_oci_and_docker() {
    let of = Compression::of_media_type;
    let oci = "application/vnd.oci.image.layer.";
    let docker = "application/vnd.docker.image.rootfs.";
    assert_eq!(of(&format!("{oci}v1.tar")), Some(Compression::Uncompressed));
    assert_eq!(of(&format!("{oci}v1.tar+gzip")), Some(Compression::Gzip));
    assert_eq!(of(&format!("{oci}v1.tar+zstd")), Some(Compression::Zstd));
    assert_eq!(
        of(&format!("{oci}nondistributable.v1.tar+gzip")),
        Some(Compression::Gzip)
    );
    assert_eq!(
        of(&format!("{docker}diff.tar.gzip")),
        Some(Compression::Gzip)
    );
    assert_eq!(
        of(&format!("{docker}foreign.diff.tar.gzip")),
        Some(Compression::Gzip)
    );
    assert_eq!(
        of(&format!("{docker}diff.tar.zstd")),
        Some(Compression::Zstd)
    );
    assert_eq!(of("application/vnd.oci.image.manifest.v1+json"), None);
    assert_eq!(of(&format!("{oci}v1.tar+lz4")), None);
}
