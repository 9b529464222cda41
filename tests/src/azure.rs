//! Azurite, Microsoft's emulator of Azure's blob storage, where `make test-azure` has started it.

/// The URL of a container that the `AZURE_` variables lead to; without one, nothing, with a line that says why.
pub fn container() -> Option<String> {
    let url = std::env::var("TESSERA_AZURE").ok();
    if url.is_none() {
        println!(
            "skipped: TESSERA_AZURE names no container of Azure's blob storage (make test-azure starts its emulator)"
        );
    }
    url
}
