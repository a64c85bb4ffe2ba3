// Package v1 stands in for the generated package of the same path, in this
// project's build only.
//
// go-tuf verifies signatures with sigstore/pkg/signature, which names its
// algorithms by two enumerations of sigstore's protocol buffers and takes
// nothing else from them. Generated in full they bring the protocol buffer
// runtime along, which looks methods up by name: the linker then has to keep every
// exported method of the program, a third of its size. Names and numbers are
// those of sigstore_common.proto.
package v1

import "strconv"

// HashAlgorithm names a hash function.
type HashAlgorithm int32

// The hash functions.
const (
	HashAlgorithm_HASH_ALGORITHM_UNSPECIFIED HashAlgorithm = 0
	HashAlgorithm_SHA2_256                   HashAlgorithm = 1
	HashAlgorithm_SHA2_384                   HashAlgorithm = 2
	HashAlgorithm_SHA2_512                   HashAlgorithm = 3
)

// String returns the number: nobody here shows it to people.
func (h HashAlgorithm) String() string { return strconv.Itoa(int(h)) }

// PublicKeyDetails names a kind of key with how it signs.
type PublicKeyDetails int32

// The kinds of key.
const (
	PublicKeyDetails_PUBLIC_KEY_DETAILS_UNSPECIFIED PublicKeyDetails = 0
	PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256  PublicKeyDetails = 9
	PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256  PublicKeyDetails = 10
	PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256  PublicKeyDetails = 11
	PublicKeyDetails_PKIX_RSA_PSS_2048_SHA256       PublicKeyDetails = 16
	PublicKeyDetails_PKIX_RSA_PSS_3072_SHA256       PublicKeyDetails = 17
	PublicKeyDetails_PKIX_RSA_PSS_4096_SHA256       PublicKeyDetails = 18
	PublicKeyDetails_PKIX_ECDSA_P256_SHA_256        PublicKeyDetails = 5
	PublicKeyDetails_PKIX_ECDSA_P384_SHA_384        PublicKeyDetails = 12
	PublicKeyDetails_PKIX_ECDSA_P521_SHA_512        PublicKeyDetails = 13
	PublicKeyDetails_PKIX_ED25519                   PublicKeyDetails = 7
	PublicKeyDetails_PKIX_ED25519_PH                PublicKeyDetails = 8
	PublicKeyDetails_PKIX_ECDSA_P384_SHA_256        PublicKeyDetails = 19
	PublicKeyDetails_PKIX_ECDSA_P521_SHA_256        PublicKeyDetails = 20
)

// String returns the number: nobody here shows it to people.
func (d PublicKeyDetails) String() string { return strconv.Itoa(int(d)) }
