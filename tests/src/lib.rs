//! Harness, and every test that needs a kernel, a namespace or a runtime.
