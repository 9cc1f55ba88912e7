//! Measures an answer before it is decoded: `kafka-protocol` takes the counts in it at their word and would allocate for them,
//! gigabytes for a dozen hostile bytes.
//!
//! A [`Shape`] says what a message consists of. [`check`] walks it over the bytes and holds each count against the room that
//! is left for so many things. Source: Apache Kafka's message definitions, `ApiVersionsResponse.json` and so on.

use kafka_protocol::{
    messages::{
        ApiVersionsRequest, DescribeConfigsRequest, FindCoordinatorRequest, HeartbeatRequest, InitProducerIdRequest,
        ListOffsetsRequest, MetadataRequest, SaslAuthenticateRequest, SaslHandshakeRequest,
    },
    protocol::Request,
};

use super::reader::{BadAnswer, Reader};

/// What a structure consists of, in its order.
pub(super) struct Shape {
    parts: &'static [Part],
    /// Tagged fields that hold counts; all others are skipped.
    tagged: &'static [(u64, Field)],
}

struct Part {
    /// The first and the last version that has it.
    versions: (i16, i16),
    field: Field,
}

enum Field {
    /// So many bytes.
    Fixed(usize),
    /// A string, or none.
    Text,
    /// Bytes, or none.
    Blob,
    /// Numbers of so many bytes each.
    Numbers(usize),
    /// Strings.
    Texts,
    /// Structures.
    Many(Shape),
}

/// A request whose answer is measured.
pub(super) trait Measured: Request {
    /// Of its answer.
    const SHAPE: Shape;
    /// From this version on lengths are varints and structures end in tagged fields.
    const FLEXIBLE: i16;
}

const fn always(field: Field) -> Part {
    Part { versions: (0, i16::MAX), field }
}

const fn since(version: i16, field: Field) -> Part {
    Part { versions: (version, i16::MAX), field }
}

const fn plain(parts: &'static [Part]) -> Shape {
    Shape { parts, tagged: &[] }
}

impl Measured for ApiVersionsRequest {
    const SHAPE: Shape = Shape {
        parts: &[
            always(Field::Fixed(2)),
            always(Field::Many(plain(&[always(Field::Fixed(6))]))),
            since(1, Field::Fixed(4)),
        ],
        tagged: &[(0, Field::Many(FEATURE)), (2, Field::Many(FEATURE))],
    };
    const FLEXIBLE: i16 = 3;
}

/// A feature's name and two versions.
const FEATURE: Shape = plain(&[always(Field::Text), always(Field::Fixed(4))]);

impl Measured for MetadataRequest {
    const SHAPE: Shape = plain(&[
        since(3, Field::Fixed(4)),
        always(Field::Many(plain(&[
            always(Field::Fixed(4)),
            always(Field::Text),
            always(Field::Fixed(4)),
            since(1, Field::Text),
        ]))),
        since(2, Field::Text),
        since(1, Field::Fixed(4)),
        always(Field::Many(plain(&[
            always(Field::Fixed(2)),
            always(Field::Text),
            since(10, Field::Fixed(16)),
            since(1, Field::Fixed(1)),
            always(Field::Many(plain(&[
                always(Field::Fixed(10)),
                since(7, Field::Fixed(4)),
                always(Field::Numbers(4)),
                always(Field::Numbers(4)),
                since(5, Field::Numbers(4)),
            ]))),
            since(8, Field::Fixed(4)),
        ]))),
        Part { versions: (8, 10), field: Field::Fixed(4) },
        since(13, Field::Fixed(2)),
    ]);
    const FLEXIBLE: i16 = 9;
}

impl Measured for ListOffsetsRequest {
    const SHAPE: Shape = plain(&[
        since(2, Field::Fixed(4)),
        always(Field::Many(plain(&[
            always(Field::Text),
            always(Field::Many(plain(&[
                always(Field::Fixed(6)),
                Part { versions: (0, 0), field: Field::Numbers(8) },
                since(1, Field::Fixed(16)),
                since(4, Field::Fixed(4)),
            ]))),
        ]))),
    ]);
    const FLEXIBLE: i16 = 6;
}

impl Measured for DescribeConfigsRequest {
    const SHAPE: Shape = plain(&[
        always(Field::Fixed(4)),
        always(Field::Many(plain(&[
            always(Field::Fixed(2)),
            always(Field::Text),
            always(Field::Fixed(1)),
            always(Field::Text),
            always(Field::Many(plain(&[
                always(Field::Text),
                always(Field::Text),
                always(Field::Fixed(1)),
                Part { versions: (0, 0), field: Field::Fixed(1) },
                since(1, Field::Fixed(1)),
                always(Field::Fixed(1)),
                since(1, Field::Many(plain(&[always(Field::Text), always(Field::Text), always(Field::Fixed(1))]))),
                since(3, Field::Fixed(1)),
                since(3, Field::Text),
            ]))),
        ]))),
    ]);
    const FLEXIBLE: i16 = 4;
}

impl Measured for FindCoordinatorRequest {
    const SHAPE: Shape = plain(&[
        since(1, Field::Fixed(4)),
        Part { versions: (0, 3), field: Field::Fixed(2) },
        Part { versions: (1, 3), field: Field::Text },
        Part { versions: (0, 3), field: Field::Fixed(4) },
        Part { versions: (0, 3), field: Field::Text },
        Part { versions: (0, 3), field: Field::Fixed(4) },
        since(
            4,
            Field::Many(plain(&[
                always(Field::Text),
                always(Field::Fixed(4)),
                always(Field::Text),
                always(Field::Fixed(6)),
                always(Field::Text),
            ])),
        ),
    ]);
    const FLEXIBLE: i16 = 3;
}

impl Measured for HeartbeatRequest {
    const SHAPE: Shape = plain(&[since(1, Field::Fixed(4)), always(Field::Fixed(2))]);
    const FLEXIBLE: i16 = 4;
}

impl Measured for InitProducerIdRequest {
    const SHAPE: Shape = plain(&[always(Field::Fixed(16)), since(6, Field::Fixed(10))]);
    const FLEXIBLE: i16 = 2;
}

impl Measured for SaslHandshakeRequest {
    const SHAPE: Shape = plain(&[always(Field::Fixed(2)), always(Field::Texts)]);
    const FLEXIBLE: i16 = i16::MAX;
}

impl Measured for SaslAuthenticateRequest {
    const SHAPE: Shape =
        plain(&[always(Field::Fixed(2)), always(Field::Text), always(Field::Blob), since(1, Field::Fixed(8))]);
    const FLEXIBLE: i16 = 2;
}

/// Holds the counts in an answer's body against its bytes.
///
/// # Errors
/// When one claims more than there is room for, or a length points behind the end.
pub(super) fn check<R: Measured>(body: &[u8], version: i16) -> Result<(), BadAnswer> {
    Walk { version, flexible: version >= R::FLEXIBLE }.shape(&mut Reader::new(body, version >= R::FLEXIBLE), &R::SHAPE)
}

struct Walk {
    version: i16,
    flexible: bool,
}

impl Walk {
    fn shape(&self, reader: &mut Reader<'_>, shape: &Shape) -> Result<(), BadAnswer> {
        self.parts(shape).try_for_each(|part| self.field(reader, &part.field))?;
        reader.each_tag(|tag, field| match shape.tagged.iter().find(|(number, _)| *number == tag) {
            Some((_, known)) => self.field(field, known),
            None => Ok(()),
        })
    }

    fn field(&self, reader: &mut Reader<'_>, field: &Field) -> Result<(), BadAnswer> {
        match field {
            Field::Fixed(width) => reader.skip(*width, "numbers"),
            Field::Text => reader.string("text").map(drop),
            Field::Blob => reader.blob("bytes").map(drop),
            Field::Numbers(width) => {
                let count = reader.count("list of numbers", *width)?;
                reader.skip(count * width, "numbers")
            }
            Field::Texts => {
                let count = reader.count("list of texts", self.least(&Field::Text))?;
                (0..count).try_for_each(|_| self.field(reader, &Field::Text))
            }
            Field::Many(shape) => {
                let count = reader.count("list", self.least_of(shape))?;
                (0..count).try_for_each(|_| self.shape(reader, shape))
            }
        }
    }

    fn parts<'s>(&self, shape: &'s Shape) -> impl Iterator<Item = &'s Part> + use<'s> {
        let version = self.version;
        shape.parts.iter().filter(move |part| (part.versions.0..=part.versions.1).contains(&version))
    }

    /// The fewest bytes of a structure.
    fn least_of(&self, shape: &Shape) -> usize {
        let tags = usize::from(self.flexible);
        tags + self.parts(shape).map(|part| self.least(&part.field)).sum::<usize>()
    }

    /// The fewest bytes of a field: a number as it is, of the others their length.
    fn least(&self, field: &Field) -> usize {
        match field {
            Field::Fixed(width) => *width,
            _ if self.flexible => 1,
            Field::Text => 2,
            Field::Blob | Field::Numbers(_) | Field::Texts | Field::Many(_) => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::{
        messages::{
            ApiVersionsResponse, BrokerId, DescribeConfigsResponse, ListOffsetsResponse, MetadataResponse,
            SaslAuthenticateResponse, SaslHandshakeResponse, TopicName,
            api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey},
            describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym},
            list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
            metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
        },
        protocol::{Decodable, Encodable, Message, StrBytes},
    };
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn text(text: &'static str) -> StrBytes {
        StrBytes::from_static_str(text)
    }

    fn api_versions() -> ApiVersionsResponse {
        let api = ApiVersion::default().with_api_key(3).with_max_version(12);
        ApiVersionsResponse::default()
            .with_api_keys(vec![api.clone(), api])
            .with_supported_features(vec![SupportedFeatureKey::default().with_name(text("kraft.version"))])
            .with_finalized_features_epoch(7)
            .with_finalized_features(vec![FinalizedFeatureKey::default().with_name(text("metadata.version"))])
    }

    fn metadata() -> MetadataResponse {
        let broker = MetadataResponseBroker::default().with_host(text("broker-1")).with_rack(Some(text("a")));
        let nodes = vec![BrokerId(1), BrokerId(2)];
        let partition = MetadataResponsePartition::default()
            .with_replica_nodes(nodes.clone())
            .with_isr_nodes(nodes)
            .with_offline_replicas(vec![BrokerId(2)]);
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName(text("clicks"))))
            .with_partitions(vec![partition.clone(), partition]);
        let topics = vec![topic.clone(), topic];
        MetadataResponse::default().with_brokers(vec![broker]).with_cluster_id(Some(text("c"))).with_topics(topics)
    }

    fn list_offsets() -> ListOffsetsResponse {
        let partitions = vec![ListOffsetsPartitionResponse::default(); 2];
        let topic = ListOffsetsTopicResponse::default().with_name(TopicName(text("t"))).with_partitions(partitions);
        ListOffsetsResponse::default().with_topics(vec![topic])
    }

    fn describe_configs() -> DescribeConfigsResponse {
        let synonym = DescribeConfigsSynonym::default().with_name(text("log.x")).with_value(Some(text("1")));
        let config = DescribeConfigsResourceResult::default()
            .with_name(text("x"))
            .with_value(Some(text("1")))
            .with_synonyms(vec![synonym.clone(), synonym]);
        let result = DescribeConfigsResult::default()
            .with_error_message(Some(text("no")))
            .with_resource_name(text("t"))
            .with_configs(vec![config.clone(), config]);
        DescribeConfigsResponse::default().with_results(vec![result])
    }

    /// In every version: what is encoded is accepted, no cut of it is, nor is any noise a reason to panic or to allocate.
    fn holds<R: Measured>(answer: &R::Response, noise: &[u8])
    where
        R::Response: Clone,
    {
        for version in R::Response::VERSIONS.min..=R::Response::VERSIONS.max {
            let mut bytes = BytesMut::new();
            answer.encode(&mut bytes, version).unwrap();
            check::<R>(&bytes, version).unwrap_or_else(|bad| panic!("version {version}: {bad}"));
            for cut in 0..bytes.len() {
                assert!(check::<R>(&bytes[..cut], version).is_err(), "version {version}, cut at {cut}");
            }
            for (at, pair) in noise.chunks_exact(2).enumerate() {
                let mut hostile = bytes.clone();
                let at = (at * 31 + usize::from(pair[0])) % hostile.len();
                let end = (at + 4).min(hostile.len());
                hostile[at..end].fill(pair[1]);
                if check::<R>(&hostile, version).is_ok() {
                    let _ = R::Response::decode(&mut Bytes::from(hostile), version);
                }
            }
        }
    }

    #[test]
    fn a_hostile_count_is_refused() {
        // Correlation apart: no error, then 2 billion versions.
        assert!(check::<ApiVersionsRequest>(&[0, 0, 0x7f, 0xff, 0xff, 0xff], 0).is_err());
        assert!(check::<ApiVersionsRequest>(&[0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f], 3).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: prop::test_runner::RngSeed::Fixed(5), ..ProptestConfig::with_cases(40) })]

        #[test]
        fn every_answer_is_measured(noise in vec(any::<u8>(), 40)) {
            holds::<ApiVersionsRequest>(&api_versions(), &noise);
            holds::<MetadataRequest>(&metadata(), &noise);
            holds::<ListOffsetsRequest>(&list_offsets(), &noise);
            holds::<DescribeConfigsRequest>(&describe_configs(), &noise);
            let mechanisms = vec![text("PLAIN"), text("SCRAM-SHA-256")];
            holds::<SaslHandshakeRequest>(&SaslHandshakeResponse::default().with_mechanisms(mechanisms), &noise);
            let said = SaslAuthenticateResponse::default().with_error_message(Some(text("no")));
            holds::<SaslAuthenticateRequest>(&said.with_auth_bytes(Bytes::from_static(b"abc")), &noise);
        }
    }
}
