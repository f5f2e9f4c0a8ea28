import java.nio.file.*;
import java.util.*;
import org.apache.hadoop.conf.Configuration;
import org.apache.parquet.crypto.keytools.KmsClient;

/** Unwraps by a table that the test wrote: one line per key, wrapped text, space, key in base64. */
public class TableKmsClient implements KmsClient {
  private final Map<String, byte[]> keys = new HashMap<>();

  @Override
  public void initialize(Configuration configuration, String instanceID, String instanceURL, String accessToken) {
    try {
      for (String line : Files.readAllLines(Paths.get(configuration.get("pipecrypt.test.table")))) {
        String[] parts = line.split(" ");
        keys.put(parts[0], Base64.getDecoder().decode(parts[1]));
      }
    } catch (java.io.IOException error) {
      throw new java.io.UncheckedIOException(error);
    }
  }

  @Override
  public String wrapKey(byte[] keyBytes, String masterKeyIdentifier) {
    throw new UnsupportedOperationException("only reads");
  }

  @Override
  public byte[] unwrapKey(String wrappedKey, String masterKeyIdentifier) {
    return keys.get(wrappedKey);
  }
}
