//! Copies of memory, the long ones in pieces.
//!
//! From 2 KiB on glibc copies by `rep movsb`, which some processors take several times as long for as for a loop where
//! source and destination lie unluckily within their pages (Zen 3 and 4, with glibc before 2.39, which has no more of it
//! there). Every record of TLS is copied so: 10 MiB to a client cost 14 ms of CPU, and 8 ms in pieces. The copies are
//! those of libraries, too, so that the linker puts these functions in the place of libc's for the whole process
//! (`build.rs`).

use std::ffi::c_void;

/// glibc has a loop for so many bytes, whatever the processor.
const PIECE: usize = 2048;

unsafe extern "C" {
    /// That of libc.
    fn __real_memcpy(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void;
    /// That of libc.
    fn __real_memmove(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void;
}

/// In the place of `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_memcpy(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void {
    // SAFETY: the caller's bytes are valid and apart, and so are any pieces of them.
    unsafe {
        if count <= PIECE {
            return __real_memcpy(to, from, count);
        }
        forward(to, from, count);
    }
    to
}

/// In the place of `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_memmove(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void {
    // SAFETY: the caller's bytes are valid, and so are any pieces of them; none is overwritten before it is copied.
    unsafe {
        if count <= PIECE {
            return __real_memmove(to, from, count);
        }
        match to.addr().wrapping_sub(from.addr()) < count {
            true => backward(to, from, count),
            false => forward(to, from, count),
        }
    }
    to
}

/// The first piece first: right unless the destination begins within the source.
unsafe fn forward(to: *mut c_void, from: *const c_void, count: usize) {
    let mut done = 0;
    while done < count {
        let piece = PIECE.min(count - done);
        // SAFETY: the piece lies within what the caller vouches for.
        unsafe { __real_memmove(to.byte_add(done), from.byte_add(done), piece) };
        done += piece;
    }
}

/// The last piece first: right where the destination begins within the source.
unsafe fn backward(to: *mut c_void, from: *const c_void, count: usize) {
    let mut left = count;
    while left > 0 {
        let piece = PIECE.min(left);
        left -= piece;
        // SAFETY: the piece lies within what the caller vouches for.
        unsafe { __real_memmove(to.byte_add(left), from.byte_add(left), piece) };
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_where_they_were_copied_to_however_both_places_overlap() {
        let original: Vec<u8> = (0..40_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        for count in [0, 1, 2047, 2048, 2049, 4096, 12_345] {
            for (from, to) in [(100, 100), (100, 101), (101, 100), (0, 5000), (5000, 0), (0, 20_000), (20_000, 0)] {
                let mut bytes = original.clone();
                bytes.copy_within(from..from + count, to);
                assert_eq!(bytes[to..to + count], original[from..from + count]);
                assert_eq!((&bytes[..to], &bytes[to + count..]), (&original[..to], &original[to + count..]));
                let mut apart = vec![0; count];
                apart.copy_from_slice(std::hint::black_box(&original[from..from + count]));
                assert_eq!(apart, original[from..from + count]);
            }
        }
    }
}
