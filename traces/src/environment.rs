//! What OpenTelemetry's variables ask for.

/// Where spans go, and which.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The collector's address: `http://host:4317`.
    pub endpoint: String,
    /// Which part of the steps, 0 to 1.
    pub part: f64,
    /// A file of certificates (PEM) to trust beside those of the system, for `https://`.
    pub certificates: Option<String>,
}

/// A variable that asks for what cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// A protocol other than gRPC.
    #[error("{variable}={found}, but spans are sent over grpc alone; a collector takes that on port 4317")]
    Protocol {
        /// Its name.
        variable: &'static str,
        /// What it says.
        found: String,
    },
    /// A sampler that is not known.
    #[error(
        "OTEL_TRACES_SAMPLER={0}: expected always_on, always_off, traceidratio, or one of them behind parentbased_"
    )]
    Sampler(String),
    /// A part that is none.
    #[error("OTEL_TRACES_SAMPLER_ARG={0}: expected a part of the steps from 0 to 1, as in 0.01")]
    Part(String),
    /// Where spans go is not an address.
    #[error("{0}: expected a collector's address, as in http://collector:4317")]
    Endpoint(String),
}

impl Asked {
    /// What `variable` asks for, if it asks for spans at all.
    ///
    /// # Errors
    /// If it asks for what cannot be had.
    pub fn in_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, EnvironmentError> {
        // An empty variable is one that is not set.
        let variable =
            |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let first = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, variable(name)?)));
        let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value != "otlp");
        let endpoint = first(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]);
        let Some((name, endpoint)) = endpoint.filter(|_| !is_off) else { return Ok(None) };
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(EnvironmentError::Endpoint(format!("{name}={endpoint}")));
        }
        let protocol = first(["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]);
        if let Some((variable, found)) = protocol.filter(|(_, found)| found != "grpc") {
            return Err(EnvironmentError::Protocol { variable, found });
        }
        let sampler = variable("OTEL_TRACES_SAMPLER").unwrap_or_else(|| "always_on".into());
        let part = match sampler.strip_prefix("parentbased_").unwrap_or(&sampler) {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => {
                let part = variable("OTEL_TRACES_SAMPLER_ARG").unwrap_or_else(|| "1".into());
                let number = part.parse().ok().filter(|number| (0.0..=1.0).contains(number));
                number.ok_or(EnvironmentError::Part(part))?
            }
            _ => return Err(EnvironmentError::Sampler(sampler)),
        };
        let certificates = first(["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"]);
        let certificates = certificates.map(|(_, file)| file);
        Ok(Some(Self { endpoint, part, certificates }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(variables: &[(&str, &str)]) -> Result<Option<Asked>, EnvironmentError> {
        Asked::in_environment(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

    #[test]
    fn nothing_is_asked_for_without_an_endpoint_or_where_it_is_switched_off() {
        for variables in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[("OTEL_TRACES_SAMPLER", "always_on")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")],
            &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert_eq!(asked(variables), Ok(None), "{variables:?}");
        }
    }

    #[test]
    fn the_variables_of_traces_go_before_those_of_everything() {
        let Ok(Some(found)) = asked(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ]) else {
            panic!("nothing is asked for")
        };
        assert_eq!((found.endpoint.as_str(), found.part), ("https://traces:4317", 0.25));
        assert_eq!(found.certificates.as_deref(), Some("ca.pem"));
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        for (variable, named) in [
            (("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"),
            (("OTEL_TRACES_SAMPLER", "xray"), "OTEL_TRACES_SAMPLER=xray"),
            (("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector"), "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=collector"),
        ] {
            let Err(error) = asked(&[ENDPOINT, variable]) else { panic!("{variable:?} is taken") };
            assert!(error.to_string().contains(named), "{error}");
        }
        for part in ["2", "-0.1", "NaN", "much"] {
            let variables = [ENDPOINT, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", part)];
            assert_eq!(asked(&variables), Err(EnvironmentError::Part(part.into())));
        }
    }
}
