module github.com/google/go-containerregistry

go 1.26.0
