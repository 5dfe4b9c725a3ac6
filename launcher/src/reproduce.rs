pub async fn reproduce(_: &crate::cli::ReproduceArgs) -> anyhow::Result<u8> {
    Ok(0)
}
