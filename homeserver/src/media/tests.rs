//! Tests of uploads, downloads and thumbnails.
